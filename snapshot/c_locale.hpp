#pragma once

#include <locale.h>

namespace troupe::snapshot {

/// Gives the calling thread the "C" locale. libarchive converts (and in UTF-8 locales normalises)
/// member names by the thread's locale; under "C" they stay the bytes that they are.
class c_locale {
public:
  c_locale() : before_(::uselocale(c_locale_object())) {}
  ~c_locale() {
    ::uselocale(before_);
  }
  c_locale(const c_locale&) = delete;
  c_locale& operator=(const c_locale&) = delete;

private:
  static locale_t c_locale_object() {
    static locale_t x = ::newlocale(LC_ALL_MASK, "C", nullptr);
    return x;
  }

  locale_t before_;
};

} // namespace troupe::snapshot
