#include "snapshot/extract.hpp"

#include "messages/json.hpp"
#include "support.hpp"
#include "zip_support.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <archive.h>
#include <archive_entry.h>

#include <ostream>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

constexpr archive_limits no_limits{std::nullopt, std::nullopt, std::nullopt};

/// What libarchive makes of `content` in the file `a`.
std::string packed(std::string_view content, int format, int filter,
                   const char* options = nullptr) {
  std::string bytes(content.size() + (1 << 20), '\0');
  size_t used = 0;
  auto* out = archive_write_new();
  archive_write_set_format(out, format);
  archive_write_add_filter(out, filter);
  if (options)
    BOOST_REQUIRE(archive_write_set_options(out, options) == ARCHIVE_OK);
  archive_write_open_memory(out, bytes.data(), bytes.size(), &used);
  auto* entry = archive_entry_new();
  archive_entry_set_pathname(entry, "a");
  archive_entry_set_filetype(entry, AE_IFREG);
  archive_entry_set_perm(entry, 0640);
  archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
  BOOST_REQUIRE(archive_write_header(out, entry) == ARCHIVE_OK);
  archive_write_data(out, content.data(), content.size());
  archive_entry_free(entry);
  BOOST_REQUIRE(archive_write_close(out) == ARCHIVE_OK);
  archive_write_free(out);
  bytes.resize(used);
  return bytes;
}

struct fixture {
  temp_dir dir;
  std::string root = dir / "ws";
  archive_limits limits;
  std::string path;
  std::stop_source stop;

  fixture() {
    fs::create_directories(root);
    fs::create_directories(dir / "outside");
  }

  result<void> put(const std::string& archive, archive_scheme scheme,
                   const std::string& where = {}) {
    path = !where.empty() ? where : scheme == archive_scheme::tar ? "in.tar" : "in.zip";
    write_text(dir / "archive", archive);
    unique_fd in{::open((dir / "archive").c_str(), O_RDONLY | O_CLOEXEC)};
    auto top = open_dir(root);
    return extract({in.get(), top.get(), path, root + '/' + path, scheme, limits},
                   stop.get_token());
  }

  void require_put(const std::string& archive, archive_scheme scheme) {
    auto ok = put(archive, scheme);
    BOOST_REQUIRE_MESSAGE(ok, (ok ? "" : ok.error().message + ok.error().context));
    BOOST_TEST((read_text(root + '/' + path) == archive));
  }

  /// The error's context, after a look that nothing came but the archive itself.
  json refused(const std::string& archive, archive_scheme scheme) {
    auto before = describe(root);
    auto ok = put(archive, scheme);
    BOOST_REQUIRE(!ok);
    BOOST_TEST((ok.error().code == errc::workspace_archive_write_error));
    BOOST_TEST((ok.error().operation == op::write));
    BOOST_TEST(ok.error().message == "failed to write archive for path: " + root + '/' + path);
    BOOST_TEST((read_text(root + '/' + path) == archive));
    auto after = describe(root);
    before.erase(path);
    after.erase(path);
    BOOST_TEST((after == before));
    auto context = parse_json(ok.error().context).value();
    BOOST_TEST(context["path"].get<std::string>() == root + '/' + path);
    return context;
  }

  unsigned mode(const char* name) const {
    struct stat st;
    BOOST_REQUIRE(::lstat((root + '/' + name).c_str(), &st) == 0);
    return st.st_mode & 07777;
  }
};

std::string text(const json& context, const char* key) {
  return context.at(key).get<std::string>();
}

struct bad_archive {
  const char* name;
  archive_scheme scheme;
  std::string bytes;
  std::string member;
  std::string reason;
};

std::ostream& operator<<(std::ostream& out, const bad_archive& x) {
  return out << x.name;
}

bad_archive bad_tar(const char* name, const std::string& members, std::string member,
                    std::string reason) {
  return {name, archive_scheme::tar, members + tar_end(), std::move(member), std::move(reason)};
}

bad_archive bad_zip(const char* name, const std::vector<zip_member>& members, std::string member,
                    std::string reason) {
  return {name, archive_scheme::zip, zip_of(members), std::move(member), std::move(reason)};
}

const std::vector<bad_archive> bad_archives = {
  bad_tar("root is a symlink", tar_symlink(".", "a"), ".", "archive root symlink"),
  bad_tar("root is a hard link", tar_hard_link("./", "a"), ".", "archive root hardlink"),
  bad_tar("hard link to nothing", tar_hard_link("h", ""), "h", "hardlink member not allowed"),
  bad_tar("root is a file", tar_file(".", "x"), ".", "archive root member must be directory"),
  bad_tar("drive", tar_file("C:evil", "x"), "C:evil", "windows drive path"),
  bad_tar("share", tar_file("//server/share/x", "x"), "//server/share/x", "windows drive path"),
  bad_tar("backslash", tar_file("a\\b", "x"), "a\\b", "windows path separator"),
  bad_tar("absolute", tar_file("/etc/evil", "x"), "/etc/evil", "absolute path"),
  bad_tar("parent", tar_file("a/../../evil", "x"), "a/../../evil", "parent traversal"),
  bad_tar("symlink", tar_symlink("l", "a"), "l", "symlink member not allowed"),
  bad_tar("absolute symlink", tar_symlink("/l", "a"), "/l", "absolute path"),
  bad_tar("hard link", tar_file("a", "x") + tar_hard_link("h", "a"), "h",
          "hardlink member not allowed"),
  bad_tar("fifo", tar_header("f", '6'), "f", "unsupported member type"),
  bad_tar("device", tar_header("c", '3'), "c", "unsupported member type"),
  bad_tar("unknown type", tar_header("z", 'z'), "z", "unsupported member type"),
  bad_tar("unknown type behind a file",
          tar_file("a", std::string(3000, 'x')) + tar_header("z", '9'), "z",
          "unsupported member type"),
  bad_tar("file twice", tar_file("a", "x") + tar_file("./a", "y"), "./a",
          "duplicate archive path: a"),
  bad_tar("file over directory", tar_directory("a") + tar_file("a", "x"), "a",
          "duplicate archive path: a"),
  bad_tar("below a file", tar_file("f", "x") + tar_file("f/g/x", "x"), "f/g/x",
          "archive path descends through non-directory: f"),
  bad_tar("file after its child", tar_file("f/g/x", "x") + tar_file("f", "x"), "f/g/x",
          "archive path descends through non-directory: f"),
  bad_tar("twice comes before below",
          tar_file("f", "x") + tar_file("f/x", "x") + tar_file("f", "x"), "f",
          "duplicate archive path: f"),
  bad_tar("bad after good", tar_file("good", "x") + tar_file("../bad", "x"), "../bad",
          "parent traversal"),
  bad_tar("too long",
          tar_pax("path", std::string(3000, 'a') + '/' + std::string(3000, 'b'))
            + tar_file("x", "x"),
          std::string(3000, 'a') + '/' + std::string(3000, 'b'), "path too long"),
  bad_zip("drive in zip", {{"C:/evil", "x"}}, "C:/evil", "windows drive path"),
  bad_zip("backslash in zip", {{"..\\evil", "x"}}, "..\\evil", "windows path separator"),
  bad_zip("absolute in zip", {{"/etc/evil", "x"}}, "/etc/evil", "absolute path"),
  bad_zip("parent in zip", {{"a/../b", "x"}}, "a/../b", "parent traversal"),
  bad_zip("link in zip", {{"l", "/etc/passwd", 0120777}}, "l", "link member not allowed"),
  bad_zip("link in zip that ends like a directory", {{"l/", "/etc", 0120777}}, "l/",
          "link member not allowed"),
  bad_zip("file twice in zip", {{"a", "x"}, {"./a", "y"}}, "./a", "duplicate archive path: a"),
  bad_zip("below a file in zip", {{"f/x", "x"}, {"f", "x"}}, "f/x",
          "archive path descends through non-directory: f"),
  bad_zip("bad after good in zip", {{"good", "x"}, {"../bad", "x"}}, "../bad", "parent traversal"),
};

bad_archive damaged_zip(const char* name, const std::vector<zip_member>& members) {
  return bad_zip(name, members, {}, {});
}

/// An LZMA stream's first bytes, of a dictionary of 2 GiB.
const std::string huge_dictionary{"\x09\x14\x05\x00\x5d\x00\x00\x00\x80\x00\x00\x00", 12};

const std::vector<bad_archive> damaged_archives = {
  {"empty tar", archive_scheme::tar, "", {}, {}},
  {"text as tar", archive_scheme::tar, std::string(2000, 'x'), {}, {}},
  {"tar without end", archive_scheme::tar, tar_file("a", "x"), {}, {}},
  {"tar cut in content",
   archive_scheme::tar,
   tar_file("a", std::string(5000, 'x')).substr(0, 2000),
   {},
   {}},
  {"tar with a bad checksum",
   archive_scheme::tar,
   tar_file("a", "x") + tar_file("b", "x").replace(0, 1, "c") + tar_end(),
   {},
   {}},
  {"cut gzip", archive_scheme::tar, gzip_tar.substr(0, gzip_tar.size() - 5), {}, {}},
  {"cut xz", archive_scheme::tar, xz_tar.substr(0, xz_tar.size() - 20), {}, {}},
  {"empty zip file", archive_scheme::zip, "", {}, {}},
  {"tar as zip", archive_scheme::zip, tar_file("a", "x") + tar_end(), {}, {}},
  {"cut zip", archive_scheme::zip, zip_of({{"a", "x"}}).substr(0, 60), {}, {}},
  {"zip without its begin", archive_scheme::zip, zip_of({{"a", "x"}}).substr(10), {}, {}},
  damaged_zip("wrong checksum",
              {{.name = "good", .content = "x"}, {.name = "a", .content = "x", .checksum = 1}}),
  damaged_zip("more content than declared", {{.name = "a", .content = "12345", .size = 3}}),
  damaged_zip("less content than declared", {{.name = "a", .content = "12345", .size = 9}}),
  damaged_zip("encrypted", {{.name = "a", .content = "x", .flags = 1}}),
  damaged_zip("unknown method", {{.name = "a", .content = "x", .method = 97}}),
  damaged_zip("not what its method says", {{.name = "a", .content = "xxxx", .method = 8}}),
  damaged_zip("huge dictionary", {{.name = "a", .content = huge_dictionary, .method = 14}}),
  damaged_zip("two names", {{.name = "a", .content = "x", .local_name = "b"}}),
  damaged_zip("one content, two members",
              {{.name = "a", .content = "x"}, {.name = "b", .content = "x", .offset = 0}}),
  damaged_zip("contents overlap", {{.name = "a", .content = zip_of({{"b", "x"}})},
                                   {.name = "b", .content = "x", .offset = 31}}),
  damaged_zip("content out of the file",
              {{.name = "a", .content = "x"}, {.name = "b", .content = "x", .offset = 1 << 30}}),
};

} // namespace

// -- refused --------------------------------------------------------------------------------------

BOOST_DATA_TEST_CASE_F(fixture, an_unsafe_member_is_refused_before_anything_is_written,
                       bad_archives) {
  write_text(root + "/live", "stays");
  auto context = refused(sample.bytes, sample.scheme);
  BOOST_TEST(text(context, "member") == sample.member);
  BOOST_TEST(text(context, "reason") == sample.reason);
}

BOOST_DATA_TEST_CASE_F(fixture, a_damaged_archive_is_refused_before_anything_is_written,
                       damaged_archives) {
  auto context = refused(sample.bytes, sample.scheme);
  BOOST_TEST(!text(context.at("cause"), "reason").empty());
  BOOST_TEST(!context.contains("reason"));
  BOOST_TEST(!context.contains("member"));
}

BOOST_FIXTURE_TEST_SUITE(extract_suite, fixture)

// -- scheme ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(the_scheme_is_that_of_the_last_suffix_unless_given) {
  BOOST_TEST((archive_scheme_of("d.x/a.b.tar", {}) == archive_scheme::tar));
  BOOST_TEST((archive_scheme_of("a.zip", {}) == archive_scheme::zip));
  BOOST_TEST((archive_scheme_of("a.zip//", {}) == archive_scheme::zip));
  BOOST_TEST((archive_scheme_of("a.tar.gz", "tar") == archive_scheme::tar));
  auto message = [](const std::string& name, const std::optional<std::string>& given) {
    auto x = archive_scheme_of(name, given).error();
    BOOST_TEST((x.code == errc::invalid_compression_scheme));
    BOOST_TEST((x.retryable == false));
    return x.message + ' ' + x.context;
  };
  BOOST_TEST(message("a.tar.gz", {})
             == "compression scheme must be one of 'zip' 'tar' "
                R"({"path":"a.tar.gz","scheme":"gz"})");
  BOOST_TEST(message("a.tar", "rar").find(R"("scheme":"rar")") != std::string::npos);
  for (std::string none : {"a", ".tar", "d.tar/a", "a."})
    BOOST_TEST(message(none, {})
               == "could not determine compression scheme {\"path\":\"" + none
                    + "\",\"scheme\":null}");
}

// -- what is read ---------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(every_compression_of_tar_is_read) {
  for (const auto& bytes : {gzip_tar, bzip2_tar, xz_tar}) {
    require_put(bytes, archive_scheme::tar);
    BOOST_TEST(read_text(root + "/a.txt") == "hello");
    fs::remove(root + "/a.txt");
  }
  std::string content(3'000'000, 'x');
  for (int format :
       {ARCHIVE_FORMAT_TAR_PAX_RESTRICTED, ARCHIVE_FORMAT_TAR_GNUTAR, ARCHIVE_FORMAT_TAR_USTAR}) {
    require_put(packed(content, format, ARCHIVE_FILTER_ZSTD), archive_scheme::tar);
    BOOST_TEST((read_text(root + "/a") == content));
    fs::remove(root + "/a");
  }
}

BOOST_AUTO_TEST_CASE(zip_is_read_as_others_write_it) {
  std::string content(3'000'000, 'x');
  for (const char* options : {"zip:compression=deflate", "zip:compression=store", "zip:zip64"}) {
    require_put(packed(content, ARCHIVE_FORMAT_ZIP, ARCHIVE_FILTER_NONE, options),
                archive_scheme::zip);
    BOOST_TEST((read_text(root + "/a") == content));
    fs::remove(root + "/a");
  }
}

BOOST_AUTO_TEST_CASE(a_zip_may_have_something_before_and_behind_it) {
  require_put("#!/bin/sh\n" + zip_of({{"a", "1"}, {"b", "2"}}) + std::string(300, 'x'),
              archive_scheme::zip);
  BOOST_TEST(read_text(root + "/b") == "2");
  require_put(zip_of({{"c", "3"}}, std::string(60'000, 'x')), archive_scheme::zip);
  BOOST_TEST(read_text(root + "/c") == "3");
}

BOOST_AUTO_TEST_CASE(empty_archives_bring_nothing) {
  require_put(tar_end(), archive_scheme::tar);
  require_put(zip_of({}), archive_scheme::zip);
  BOOST_TEST(names(root) == (std::set<std::string>{"in.tar", "in.zip"}));
}

BOOST_AUTO_TEST_CASE(names_stay_the_bytes_that_they_are) {
  constexpr uint32_t is_utf8 = 0x800;
  for (std::string name : {"caf\xc3\xa9", "cafe\xcc\x81", "\xff\xfe"}) {
    require_put(tar_file(name, "1") + tar_end(), archive_scheme::tar);
    BOOST_TEST(read_text(root + '/' + name) == "1");
    require_put(zip_of({{.name = name + "z", .content = "2"},
                        {.name = name + "u", .content = "3", .flags = is_utf8}}),
                archive_scheme::zip);
    BOOST_TEST(read_text(root + '/' + name + 'z') == "2");
    BOOST_TEST(read_text(root + '/' + name + 'u') == "3");
  }
  require_put(zip_of({{std::string{"cut\0.exe", 8}, "4"}}), archive_scheme::zip);
  BOOST_TEST(read_text(root + "/cut") == "4");
}

BOOST_AUTO_TEST_CASE(the_root_of_a_zip_is_passed_over) {
  require_put(zip_of({{"./", "", 040755}, {".", "file"}, {"./a", "x"}}), archive_scheme::zip);
  BOOST_TEST(names(root) == (std::set<std::string>{"a", "in.zip"}));
}

BOOST_AUTO_TEST_CASE(what_a_zip_calls_no_file_is_one_by_its_name) {
  constexpr uint32_t types[] = {0020644, 0040755, 0060644, 0140777, 0170777};
  std::vector<zip_member> members;
  for (auto mode : types)
    members.push_back({"a" + std::to_string(mode), std::string(70'000, 'x'), mode});
  auto archive = zip_of(members);
  auto first = archive.find("PK\1\2");
  archive[first + 5] = 0;     // written by DOS
  archive[first + 38] = 0x10; // where that is a directory
  require_put(archive, archive_scheme::zip);
  for (const auto& x : members)
    BOOST_TEST((read_text(root + '/' + x.name) == x.content));
}

BOOST_AUTO_TEST_CASE(members_may_come_in_any_order) {
  require_put(tar_file("a/b/c", "1") + tar_directory("") + tar_directory("a/b") + tar_directory("a")
                + tar_directory("e/m/p/t/y") + tar_file("a/b/d", "2") + tar_end(),
              archive_scheme::tar);
  BOOST_TEST(read_text(root + "/a/b/c") == "1");
  BOOST_TEST(read_text(root + "/a/b/d") == "2");
  BOOST_TEST(fs::is_directory(root + "/e/m/p/t/y"));
}

BOOST_AUTO_TEST_CASE(holes_come_back_as_holes) {
  std::string map = "1\n1000000\n1\n";
  map.resize(512);
  std::string records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
                        "31 GNU.sparse.realsize=2000000\n";
  auto header = tar_header("pax", 'x', {}, records.size()) + records;
  header.resize(1024);
  auto content = map + "x";
  content.resize(1024);
  require_put(header + tar_header("s", '0', {}, 513) + content + tar_file("next", "n") + tar_end(),
              archive_scheme::tar);
  std::string expected(2'000'000, '\0');
  expected[1'000'000] = 'x';
  BOOST_TEST((read_text(root + "/s") == expected));
  BOOST_TEST(read_text(root + "/next") == "n");
}

// -- where it goes --------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(members_go_beside_the_archive) {
  BOOST_TEST(put(tar_file("a", "x") + tar_end(), archive_scheme::tar, "sub/dir/x.bin").has_value());
  BOOST_TEST(read_text(root + "/sub/dir/a") == "x");
  fs::create_directory_symlink("sub", root + "/link");
  BOOST_TEST(put(tar_file("b", "x") + tar_end(), archive_scheme::tar, "link/y.tar").has_value());
  BOOST_TEST(names(root + "/sub") == (std::set<std::string>{"b", "dir", "y.tar"}));
  auto ok = put(tar_file("c", "x") + tar_end(), archive_scheme::tar, "../outside/z.tar");
  BOOST_TEST(!ok.has_value());
  BOOST_TEST(names(dir / "outside").empty());
}

BOOST_AUTO_TEST_CASE(links_of_the_workspace_are_not_followed) {
  fs::create_directory(root + "/d");
  fs::create_directory_symlink("d", root + "/inside");
  fs::create_directory_symlink(dir / "outside", root + "/out");
  fs::create_symlink("d/target", root + "/leaf");
  for (auto [member, link] :
       {std::pair{"inside/a", "inside"}, {"out/sub/a", "out"}, {"leaf", "leaf"}}) {
    auto context = refused(tar_file(member, "x") + tar_end(), archive_scheme::tar);
    BOOST_TEST(text(context, "reason") == std::string{"symlink in parent path: "} + link);
    BOOST_TEST(text(context, "member") == member);
  }
  auto context = refused(zip_of({{"out/", "", 040755}}), archive_scheme::zip);
  BOOST_TEST(text(context, "reason") == "symlink in parent path: out");
  BOOST_TEST(names(dir / "outside").empty());
  BOOST_TEST(names(root + "/d").empty());
}

BOOST_AUTO_TEST_CASE(what_was_written_before_a_failure_stays) {
  fs::create_directory_symlink("d", root + "/l");
  auto ok = put(zip_of({{"a", "x"}, {"l/b", "x"}, {"z", "x"}}), archive_scheme::zip);
  BOOST_REQUIRE(!ok);
  BOOST_TEST(names(root) == (std::set<std::string>{"a", "in.zip", "l"}));
}

BOOST_AUTO_TEST_CASE(what_is_in_the_way_is_named) {
  write_text(root + "/d/x", "x");
  write_text(root + "/f", "old");
  ::mkfifo((root + "/p").c_str(), 0600);
  auto failed = [&](const std::string& member) {
    auto ok = put(tar_pax("path", member) + tar_file("x", "new") + tar_end(), archive_scheme::tar);
    BOOST_REQUIRE(!ok);
    BOOST_TEST((ok.error().code == errc::workspace_archive_write_error));
    auto context = parse_json(ok.error().context).value();
    BOOST_TEST(text(context, "member") == member);
    BOOST_TEST(!text(context, "detail").empty());
    return text(context, "path").substr(root.size() + 1);
  };
  BOOST_TEST(failed("d") == "d");
  BOOST_TEST(failed("f/x/y") == "f");
  BOOST_TEST(failed("p") == "p");
  BOOST_TEST(failed("n/" + std::string(300, 'n')) == "n/" + std::string(300, 'n'));
  BOOST_TEST(read_text(root + "/f") == "old");
  auto ok = put(tar_directory("f") + tar_end(), archive_scheme::tar);
  BOOST_TEST(!ok.has_value());
}

BOOST_AUTO_TEST_CASE(a_file_is_replaced_and_its_other_names_are_not) {
  write_text(root + "/a", "old");
  fs::create_hard_link(root + "/a", root + "/b");
  require_put(tar_file("a", "new") + tar_end(), archive_scheme::tar);
  BOOST_TEST(read_text(root + "/a") == "new");
  BOOST_TEST(read_text(root + "/b") == "old");
}

BOOST_AUTO_TEST_CASE(permission_bits_are_kept_and_no_others) {
  write_text(root + "/old", "x");
  ::chmod((root + "/old").c_str(), 0751);
  require_put(tar_file("run", "x", 0755) + tar_file("key", "x", 0600) + tar_file("s", "x", 06751)
                + tar_directory("d", 0500) + tar_file("d/x", "x") + tar_end(),
              archive_scheme::tar);
  BOOST_TEST(mode("run") == 0755u);
  BOOST_TEST(mode("key") == 0600u);
  BOOST_TEST(mode("s") == 0751u);
  BOOST_TEST(mode("d") == 0700u);
  require_put(zip_of({{"zrun", "x", 0100755}, {"plain", "x", 0}, {"old", "y", 0}}),
              archive_scheme::zip);
  BOOST_TEST(mode("zrun") == 0755u);
  BOOST_TEST(mode("plain") == 0644u);
  BOOST_TEST(mode("old") == 0751u);
}

// -- limits ---------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(too_large_an_archive_does_not_come_in) {
  auto archive = tar_file("a", "x") + tar_end();
  limits.max_input_bytes = archive.size();
  require_put(archive, archive_scheme::tar);
  fs::remove_all(root);
  fs::create_directory(root);
  limits.max_input_bytes = archive.size() - 1;
  auto ok = put(archive, archive_scheme::tar);
  BOOST_REQUIRE(!ok);
  BOOST_TEST(ok.error().context
             == "{\"path\":\"" + root + "/in.tar\",\"reason\":\"archive input size exceeds limit\","
                  + "\"limit\":2047,\"actual\":2048}");
  BOOST_TEST(names(root).empty());
}

BOOST_AUTO_TEST_CASE(unpacked_bytes_are_limited) {
  limits.max_extracted_bytes = 1000;
  auto tar = [](size_t a, size_t b) {
    return tar_file("a", std::string(a, 'x')) + tar_file("b", std::string(b, 'x')) + tar_end();
  };
  auto zip = [](size_t a, size_t b) {
    return zip_of({{"a", std::string(a, 'x')}, {"b", std::string(b, 'x')}});
  };
  require_put(tar(600, 400), archive_scheme::tar);
  require_put(zip(600, 400), archive_scheme::zip);
  for (const auto& context :
       {refused(tar(600, 401), archive_scheme::tar), refused(zip(600, 401), archive_scheme::zip)}) {
    BOOST_TEST(text(context, "reason") == "archive extracted size exceeds limit");
    BOOST_TEST(text(context, "member") == "b");
    BOOST_TEST(context["limit"].get<int>() == 1000);
    BOOST_TEST(context["actual"].get<int>() == 1001);
  }
}

BOOST_AUTO_TEST_CASE(a_bomb_is_refused_by_what_it_declares_or_stopped_where_that_ends) {
  limits.max_extracted_bytes = 1 << 20;
  auto bomb = packed(std::string(200 << 20, '\0'), ARCHIVE_FORMAT_ZIP, ARCHIVE_FILTER_NONE);
  BOOST_TEST(text(refused(bomb, archive_scheme::zip), "reason")
             == "archive extracted size exceeds limit");
  auto record = bomb.rfind("PK\1\2");
  bomb.replace(record + 24, 4, little(1000, 4)); // the declared size
  BOOST_TEST(refused(bomb, archive_scheme::zip).contains("cause"));
}

BOOST_AUTO_TEST_CASE(members_are_limited_but_not_the_root) {
  limits.max_members = 1;
  require_put(tar_directory("./") + tar_file("a", "") + tar_end(), archive_scheme::tar);
  require_put(zip_of({{"./", "", 040755}, {"a", ""}}), archive_scheme::zip);
  for (const auto& context :
       {refused(tar_file("c", "") + tar_directory("d") + tar_end(), archive_scheme::tar),
        refused(zip_of({{"c", ""}, {"d", ""}}), archive_scheme::zip)}) {
    BOOST_TEST(text(context, "reason") == "archive member count exceeds limit");
    BOOST_TEST(text(context, "member") == "d");
    BOOST_TEST(context["limit"].get<int>() == 1);
    BOOST_TEST(context["actual"].get<int>() == 2);
  }
  std::string roots;
  for (int i = 0; i < 3; ++i)
    roots += tar_directory("./");
  require_put(roots + tar_file("a", "") + tar_end(), archive_scheme::tar);
}

BOOST_AUTO_TEST_CASE(directories_that_nobody_named_are_limited) {
  std::string archive;
  for (int k = 0; k < 70; ++k) {
    std::string name = std::to_string(k);
    for (int i = 0; i < 1500; ++i)
      name += "/d";
    archive += tar_pax("path", name) + tar_file("x", "x");
  }
  limits.max_members = 100;
  auto context = refused(archive + tar_end(), archive_scheme::tar);
  BOOST_TEST(text(context, "reason") == "archive member names exceed limit");
}

BOOST_AUTO_TEST_CASE(without_limits_nothing_is_counted) {
  limits = no_limits;
  require_put(tar_file("a", "x") + tar_end(), archive_scheme::tar);
}

BOOST_AUTO_TEST_CASE(holes_count_towards_the_limit) {
  limits.max_extracted_bytes = 1 << 20;
  std::string records = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n"
                        "37 GNU.sparse.realsize=1000000000000\n";
  auto header = tar_header("pax", 'x', {}, records.size()) + records;
  header.resize(1024);
  std::string content = "1\n0\n1\n";
  content.resize(1024, '\0');
  auto context
    = refused(header + tar_header("s", '0', {}, 513) + content + tar_end(), archive_scheme::tar);
  BOOST_TEST(text(context, "reason") == "archive extracted size exceeds limit");
}

BOOST_AUTO_TEST_CASE(headers_are_limited_together) {
  std::string archive;
  for (int i = 0; i < 25; ++i)
    archive += tar_pax("comment", std::string(3'500'000, 'x')) + tar_file(std::to_string(i), "x");
  BOOST_TEST(refused(archive + tar_end(), archive_scheme::tar).contains("cause"));
}

BOOST_AUTO_TEST_CASE(pieces_of_a_file_cannot_be_written_again_and_again) {
  std::string records
    = "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n27 GNU.sparse.realsize=512\n";
  auto header = tar_header("pax", 'x', {}, records.size()) + records;
  header.resize(1024);
  std::string content = "2\n0\n512\n0\n512\n";
  content.resize(512);
  content.resize(1536, 'x');
  BOOST_TEST(refused(header + tar_header("s", '0', {}, content.size()) + content + tar_end(),
                     archive_scheme::tar)
               .contains("cause"));
}

BOOST_AUTO_TEST_CASE(a_stop_is_obeyed) {
  stop.request_stop();
  for (auto scheme : {archive_scheme::tar, archive_scheme::zip}) {
    auto ok
      = put(scheme == archive_scheme::tar ? tar_file("a", "x") + tar_end() : zip_of({{"a", "x"}}),
            scheme);
    BOOST_REQUIRE(!ok);
    BOOST_TEST((ok.error().code == errc::cancelled));
    BOOST_TEST(!fs::exists(root + "/a"));
  }
}

BOOST_AUTO_TEST_SUITE_END()
