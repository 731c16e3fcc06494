#include "snapshot/zstd_stream.hpp"

#include "support.hpp"

#include <boost/test/unit_test.hpp>

#include <zstd.h>

using namespace troupe;
using namespace troupe::snapshot;
using namespace troupe::snapshot::test;

namespace {

std::string compress(const std::string& text, unsigned workers, size_t piece) {
  zstd_pool pool{workers};
  std::string out;
  zstd_writer writer{pool, [&](const char* data, size_t size) -> result<void> {
                       out.append(data, size);
                       return {};
                     }};
  for (size_t at = 0; at < text.size(); at += piece)
    BOOST_REQUIRE(writer.write(text.data() + at, std::min(piece, text.size() - at)));
  BOOST_REQUIRE(writer.finish());
  return out;
}

/// Gives text in small pieces.
class text_source final : public byte_source {
public:
  text_source(std::string text, size_t piece) : text_(std::move(text)), piece_(piece) {}
  result<std::string_view> next() override {
    auto chunk = std::string_view{text_}.substr(at_, piece_);
    at_ += chunk.size();
    return chunk;
  }

private:
  std::string text_;
  size_t piece_;
  size_t at_ = 0;
};

result<std::string> decompress(const std::string& bytes, size_t piece) {
  zstd_source source{std::make_unique<text_source>(bytes, piece)};
  std::string out;
  for (;;) {
    auto chunk = source.next();
    if (!chunk)
      return unexpected(chunk.error());
    if (chunk->empty())
      return out;
    out += *chunk;
  }
}

std::string sample(size_t size) {
  std::string text;
  uint32_t x = 1;
  while (text.size() < size) {
    x = x * 1664525 + 1013904223;
    text.append(1 + x % 7, static_cast<char>('a' + (x >> 24) % 26));
  }
  text.resize(size);
  return text;
}

} // namespace

BOOST_AUTO_TEST_CASE(what_was_compressed_comes_back) {
  for (size_t size :
       {size_t{0}, size_t{1}, size_t{100'000}, size_t{1'048'576}, size_t{9'000'000}}) {
    auto text = sample(size);
    for (unsigned workers : {0u, 2u}) {
      auto bytes = compress(text, workers, 70'001);
      BOOST_TEST(bytes.starts_with(zstd_magic));
      auto back = decompress(bytes, 65'537);
      BOOST_REQUIRE(back);
      BOOST_TEST((*back == text));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_context_is_used_again_for_small_and_large_input) {
  zstd_pool pool{2};
  for (size_t size : {size_t{3'000'000}, size_t{10}, size_t{2'000'000}, size_t{0}}) {
    auto text = sample(size);
    std::string out;
    zstd_writer writer{pool, [&](const char* data, size_t n) -> result<void> {
                         out.append(data, n);
                         return {};
                       }};
    BOOST_REQUIRE(writer.write(text.data(), text.size()));
    BOOST_REQUIRE(writer.finish());
    BOOST_TEST((decompress(out, 1 << 20).value() == text));
  }
}

BOOST_AUTO_TEST_CASE(a_failing_sink_ends_the_stream) {
  zstd_pool pool{2};
  zstd_writer writer{pool, [](const char*, size_t) -> result<void> {
                       return unexpected(make_error(errc::no_space, op::write, "full"));
                     }};
  BOOST_REQUIRE(writer.write("abc", 3));
  auto ok = writer.finish();
  BOOST_REQUIRE(!ok);
  BOOST_TEST((ok.error().code == errc::no_space));
}

BOOST_AUTO_TEST_CASE(a_cut_stream_is_no_end) {
  auto bytes = compress(sample(5000), 0, 5000);
  for (size_t size = 1; size < bytes.size(); ++size)
    BOOST_REQUIRE(!decompress(bytes.substr(0, size), 100));
}

BOOST_AUTO_TEST_CASE(frames_follow_each_other_and_skippable_ones_are_passed_over) {
  std::string skippable{"\x50\x2a\x4d\x18\x03\x00\x00\x00xyz", 11};
  auto bytes = compress("one", 0, 3) + skippable + compress("two", 0, 3) + skippable;
  for (size_t piece : {size_t{1}, size_t{7}, size_t{1000}})
    BOOST_TEST(decompress(bytes, piece).value() == "onetwo");
}

BOOST_AUTO_TEST_CASE(a_window_that_would_take_gigabytes_is_refused) {
  std::string bytes(1024, '\0');
  auto* context = ZSTD_createCCtx();
  ZSTD_CCtx_setParameter(context, ZSTD_c_windowLog, 30);
  ZSTD_inBuffer in{"x", 1, 0};
  ZSTD_outBuffer out{bytes.data(), bytes.size(), 0};
  BOOST_REQUIRE(!ZSTD_isError(ZSTD_compressStream2(context, &out, &in, ZSTD_e_flush)));
  in = {nullptr, 0, 0};
  BOOST_REQUIRE(ZSTD_compressStream2(context, &out, &in, ZSTD_e_end) == 0);
  bytes.resize(out.pos);
  ZSTD_freeCCtx(context);
  BOOST_TEST(!decompress(bytes, 1000));
}
