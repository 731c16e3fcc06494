#include "gateway/http/http.hpp"

#include "gateway/http/connection.hpp"
#include "gateway/http/field_values.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

namespace troupe::gateway {

namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
}

/// Whether the parameters of a media range say `q=0`: not acceptable.
bool is_refused(std::string_view parameters) {
  while (!parameters.empty()) {
    auto value = next_item(parameters, ';');
    auto name = next_item(value, '=');
    if (equal_ignoring_case(name, "q"))
      return value.find_first_not_of("0.") == std::string_view::npos;
  }
  return false;
}

/// What is held of bodies that are kept whole, of all of them together. The first bytes of each do
/// not count: small requests are served whatever large ones there are.
class held_bytes {
public:
  held_bytes() = default;
  held_bytes(const held_bytes&) = delete;
  held_bytes& operator=(const held_bytes&) = delete;
  ~held_bytes() {
    all_ -= mine_;
  }

  /// False if a body of `size` bytes is too much beside the others.
  bool grow_to(uint64_t size) {
    auto more = std::max(size, each) - each - mine_;
    if (all_.fetch_add(more) + more > most) {
      all_ -= more;
      return false;
    }
    mine_ += more;
    return true;
  }

private:
  static constexpr uint64_t each = 64 * 1024;
  static constexpr uint64_t most = 256 * 1024 * 1024;
  static inline std::atomic<uint64_t> all_{0};
  uint64_t mine_ = 0;
};

/// Collects a body for `body_reader::read_all`.
void collect(body_reader reader, body_reader::chunk so_far, std::shared_ptr<held_bytes> held,
             body_reader::read_done done) {
  reader.read(body_reader::max_chunk, [reader, so_far = std::move(so_far), held = std::move(held),
                                       done = std::move(done)](auto piece) mutable {
    if (!piece || piece->empty())
      return done(piece ? result<body_reader::chunk>(std::move(so_far)) : std::move(piece));
    if (!held->grow_to(so_far.size() + piece->size()))
      return done(
        unexpected(make_error(errc::overloaded, op::request, "too many large requests at once")));
    if (so_far.empty())
      so_far = std::move(*piece);
    else
      so_far.insert(so_far.end(), piece->begin(), piece->end());
    collect(std::move(reader), std::move(so_far), std::move(held), std::move(done));
  });
}

} // namespace

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return lower(x) == lower(y); });
}

// -- header_list ---------------------------------------------------------------------------------

std::optional<std::string_view> header_list::get(std::string_view name) const {
  for (const auto& [key, value] : fields_)
    if (equal_ignoring_case(key, name))
      return value;
  return std::nullopt;
}

size_t header_list::count(std::string_view name) const {
  return static_cast<size_t>(std::count_if(fields_.begin(), fields_.end(), [&](const field& x) {
    return equal_ignoring_case(x.first, name);
  }));
}

// -- request_head --------------------------------------------------------------------------------

const std::string& request_head::param(std::string_view name) const {
  static const std::string none;
  for (const auto& [key, value] : params)
    if (key == name)
      return value;
  return none;
}

bool request_head::accepts(std::string_view mime) const {
  for (const auto& [name, value] : headers) {
    if (!equal_ignoring_case(name, "accept"))
      continue;
    for (std::string_view rest = value; !rest.empty();) {
      auto parameters = next_item(rest, ',');
      if (equal_ignoring_case(next_item(parameters, ';'), mime) && !is_refused(parameters))
        return true;
    }
  }
  return false;
}

// -- body_reader ---------------------------------------------------------------------------------

void body_reader::read(size_t max, read_done done) const {
  connection_->read_body(turn_, std::clamp<size_t>(max, 1, max_chunk), std::move(done));
}

void body_reader::read_all(uint64_t limit, read_done done) const {
  connection_->set_body_limit(turn_, limit);
  collect(*this, {}, std::make_shared<held_bytes>(), std::move(done));
}

// -- exchange ------------------------------------------------------------------------------------

exchange::exchange(std::shared_ptr<connection> c, uint64_t turn, request_head head)
  : connection_(std::move(c)), turn_(turn), head_(std::move(head)) {}

exchange::~exchange() {
  if (!answered_)
    connection_->answer_dropped(turn_);
}

void exchange::set_body_limit(uint64_t bytes) {
  connection_->set_body_limit(turn_, bytes);
}

void exchange::respond(response answer) {
  if (!answered_.exchange(true))
    connection_->respond(turn_, std::move(answer));
}

void exchange::upgrade(std::shared_ptr<successor> next) {
  if (!answered_.exchange(true))
    connection_->upgrade(turn_, std::move(next));
}

void exchange::on_disconnect(std::function<void()> callback) {
  connection_->on_disconnect(turn_, std::move(callback));
}

void exchange::post(std::function<void()> task) {
  connection_->post(std::move(task));
}

void exchange::set_route(std::string pattern,
                         std::vector<std::pair<std::string, std::string>> params) {
  head_.params = std::move(params);
  connection_->set_route(turn_, std::move(pattern));
}

} // namespace troupe::gateway
