# How every target of this project is made: one library per folder, warnings as errors, sanitizers by
# preset.

option(TROUPE_WERROR "Treat warnings as errors" ON)
set(TROUPE_SANITIZE "" CACHE STRING "Sanitizers to build with: address,undefined or thread")

add_library(troupe_options INTERFACE)
target_include_directories(troupe_options INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_options(troupe_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                                                -Wno-sign-conversion)
if(TROUPE_WERROR)
  target_compile_options(troupe_options INTERFACE -Werror)
endif()
if(TROUPE_SANITIZE)
  # g++ 12 sees overlaps in string appends that are not there (GCC bug 105651), more of them with
  # sanitizers.
  target_compile_options(troupe_options INTERFACE -Wno-restrict -Wno-maybe-uninitialized)
  target_compile_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE}
                                                  -fno-sanitize-recover=all
                                                  -fno-omit-frame-pointer)
  target_link_options(troupe_options INTERFACE -fsanitize=${TROUPE_SANITIZE})
endif()

# troupe_library(NAME SOURCES a.cpp ... DEPENDS target ... [PRIVATE_DEPENDS target ...])
# Makes the static library troupe_NAME with the alias troupe::NAME. What a folder may include is what
# its DEPENDS let it link.
function(troupe_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS;PRIVATE_DEPENDS" ${ARGN})
  add_library(troupe_${name} STATIC ${arg_SOURCES})
  add_library(troupe::${name} ALIAS troupe_${name})
  target_link_libraries(troupe_${name} PUBLIC troupe_options ${arg_DEPENDS}
                                       PRIVATE ${arg_PRIVATE_DEPENDS})
endfunction()

# Every test that may run under TSan: without CAF, whose library is not instrumented.
add_custom_target(tsan_tests)

# troupe_test(NAME SOURCES a.cpp ... DEPENDS target ... [LABELS unit|sim|integration|fault])
# One Boost.Test binary, one CTest test. Labelled `tsan` too when it may run under TSan (no CAF).
function(troupe_test name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPENDS;LABELS" ${ARGN})
  add_executable(test_${name} ${arg_SOURCES})
  target_link_libraries(test_${name} PRIVATE troupe_options ${arg_DEPENDS}
                                             Boost::unit_test_framework)
  target_compile_definitions(test_${name} PRIVATE BOOST_TEST_DYN_LINK
                                                  BOOST_TEST_MODULE=${name})
  # g++ 12 sees overlaps that are not there inside Boost's data test cases.
  target_compile_options(test_${name} PRIVATE -Wno-restrict)
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES LABELS "${arg_LABELS}" TIMEOUT 300)
  if("tsan" IN_LIST arg_LABELS)
    add_dependencies(tsan_tests test_${name})
  endif()
endfunction()
