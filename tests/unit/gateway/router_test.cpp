#include "gateway/http/router.hpp"
#include "gateway/http/server.hpp"
#include "raw_client.hpp"

using namespace troupe::gateway;

namespace {

struct fixture {
  fixture() {
    auto none = [](auto) {};
    r.add("GET", "/", none);
    r.add("GET", "/v1/sessions", none);
    r.add("POST", "/v1/sessions", none);
    r.add("GET", "/v1/sessions/{id}", none);
    r.add("DELETE", "/v1/sessions/{id}", none);
    r.add("POST", "/v1/sessions/resume", none);
    r.add("POST", "/v1/sessions/{id}/exec", none);
    r.add("*", "/v1/sessions/{id}/proxy/{port}/{rest...}", none);
  }

  router::match find(std::string_view method, const std::string& path) {
    request_head head;
    head.path = path;
    head.segments = split_path(path).value();
    return r.find(method, head);
  }

  std::string pattern(std::string_view method, const std::string& path) {
    auto m = find(method, path);
    return m.found ? m.found->pattern : "none; " + m.allow;
  }

  router r;
};

} // namespace

BOOST_FIXTURE_TEST_SUITE(router_suite, fixture)

BOOST_AUTO_TEST_CASE(literals_and_names_are_matched_segment_by_segment) {
  BOOST_TEST(pattern("GET", "/") == "/");
  BOOST_TEST(pattern("POST", "/v1/sessions") == "/v1/sessions");
  BOOST_TEST(pattern("POST", "/v1/sessions/7/exec") == "/v1/sessions/{id}/exec");
  BOOST_TEST(find("POST", "/v1/sessions/7/exec").params.at(0).second == "7");
}

BOOST_AUTO_TEST_CASE(unknown_paths_match_nothing) {
  for (auto path : {"/v1", "/v1/sessions/", "/v1/sessions//exec", "/v1/sessions/7/exec/",
                    "/V1/sessions", "//v1/sessions", "/v1%2Fsessions"})
    BOOST_TEST(pattern("POST", path) == "none; ", path);
}

BOOST_AUTO_TEST_CASE(a_name_takes_an_encoded_slash_as_part_of_its_segment) {
  BOOST_TEST(find("GET", "/v1/sessions/a%2Fb").params.at(0).second == "a/b");
}

BOOST_AUTO_TEST_CASE(literals_go_before_names_but_do_not_hide_them) {
  BOOST_TEST(pattern("POST", "/v1/sessions/resume") == "/v1/sessions/resume");
  BOOST_TEST(pattern("GET", "/v1/sessions/resume") == "/v1/sessions/{id}");
}

BOOST_AUTO_TEST_CASE(the_rest_is_taken_as_it_was_sent) {
  auto rest = [&](const std::string& path) { return find("PATCH", path).params.at(2).second; };
  BOOST_TEST(rest("/v1/sessions/7/proxy/80/a/b%2Fc/") == "a/b%2Fc/");
  BOOST_TEST(rest("/v1/sessions/7/proxy/80//x") == "/x");
  BOOST_TEST(rest("/v1/sessions/7/proxy/80/") == "");
  BOOST_TEST(rest("/v1/sessions/7/proxy/80") == "");
  BOOST_TEST(pattern("PATCH", "/v1/sessions/7/proxy") == "none; ");
}

BOOST_AUTO_TEST_CASE(a_known_path_tells_its_methods) {
  BOOST_TEST(pattern("PUT", "/v1/sessions") == "none; GET, HEAD, POST");
  BOOST_TEST(pattern("POST", "/v1/sessions/7") == "none; GET, HEAD, DELETE");
}

BOOST_AUTO_TEST_CASE(get_routes_serve_head) {
  BOOST_TEST(pattern("HEAD", "/v1/sessions/7") == "/v1/sessions/{id}");
  BOOST_TEST(pattern("HEAD", "/v1/sessions/7/exec") == "none; POST");
}

BOOST_AUTO_TEST_CASE(broken_escapes_are_refused_but_in_a_rest_that_goes_on_as_it_came) {
  router routes;
  routes.add("GET", "/a/{b}", [](auto x) { x->respond({}); });
  routes.add("*", "/p/{rest...}", [](auto x) {
    response answer;
    answer.body = x->head().param("rest") + x->head().query_text;
    x->respond(std::move(answer));
  });
  auto running = server::start({}, [&](auto x) { routes(x); }).value();
  raw_client c(running->port());
  auto get = [&](const std::string& target) {
    c.get(target);
    return c.receive();
  };
  for (auto target : {"/%zz", "/a/%zz", "/a%00", "/a/b?c=%4", "/a/b/%"}) {
    auto answer = get(target);
    BOOST_TEST(answer.status == 400, target);
    BOOST_TEST(answer.body.starts_with(R"({"error":{"code":"invalid_request")"), target);
  }
  BOOST_TEST(get("/a/b?c").status == 200);
  for (auto rest : {"%zz/%00?a=%u20ac", "a%2Fb/?", "?x=%", "//..//?a?b"})
    BOOST_TEST(get(std::string("/p/") + rest).body == rest);
  BOOST_TEST(get("http://h/p/a%?b=c").body == "a%?b=c");
}

BOOST_AUTO_TEST_SUITE_END()
