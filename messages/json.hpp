#pragma once

#include "messages/error.hpp"

#include <nlohmann/json.hpp>

#include <string>
#include <string_view>
#include <unordered_map>

namespace troupe {

/// nlohmann's insertion-ordered map with an index: its own looks a key up by scanning, so that an
/// attacker's object of 10^6 keys would hold a thread for hours.
template <class Key, class T, class IgnoredLess = std::less<Key>,
          class Allocator = std::allocator<std::pair<const Key, T>>>
struct indexed_map : nlohmann::ordered_map<Key, T, IgnoredLess, Allocator> {
  using base = nlohmann::ordered_map<Key, T, IgnoredLess, Allocator>;
  using typename base::const_iterator;
  using typename base::iterator;
  using typename base::size_type;
  using key_type = Key;
  using mapped_type = T;
  using base::base;

  template <class K>
  iterator find(K&& key) {
    return this->begin() + static_cast<std::ptrdiff_t>(position(key));
  }
  template <class K>
  const_iterator find(K&& key) const {
    return this->begin() + static_cast<std::ptrdiff_t>(position(key));
  }
  template <class K>
  size_type count(K&& key) const {
    return position(key) < this->size() ? 1 : 0;
  }
  template <class K>
  T& at(K&& key) {
    auto i = find(key);
    if (i == this->end())
      throw std::out_of_range("key not found");
    return i->second;
  }
  template <class K>
  const T& at(K&& key) const {
    auto i = find(key);
    if (i == this->end())
      throw std::out_of_range("key not found");
    return i->second;
  }
  template <class K, class V>
  std::pair<iterator, bool> emplace(K&& key, V&& value) {
    if (auto i = position(key); i < this->size())
      return {this->begin() + static_cast<std::ptrdiff_t>(i), false};
    this->base::Container::emplace_back(Key(std::forward<K>(key)), std::forward<V>(value));
    if (!index_.empty())
      index_.emplace(this->back().first, this->size() - 1);
    return {std::prev(this->end()), true};
  }
  template <class K>
  T& operator[](K&& key) {
    return emplace(std::forward<K>(key), T{}).first->second;
  }
  iterator erase(iterator at) {
    index_.clear();
    return base::erase(at);
  }
  iterator erase(iterator first, iterator last) {
    index_.clear();
    return base::erase(first, last);
  }
  template <class K>
  size_type erase(K&& key) {
    auto i = find(key);
    if (i == this->end())
      return 0;
    erase(i);
    return 1;
  }

private:
  static constexpr size_t scan_limit = 32;

  template <class K>
  size_t position(const K& key) const {
    if (this->size() <= scan_limit) {
      for (size_t i = 0; i < this->size(); ++i)
        if (this->begin()[static_cast<std::ptrdiff_t>(i)].first == key)
          return i;
      return this->size();
    }
    if (index_.size() != this->size()) {
      index_.clear();
      for (size_t i = 0; i < this->size(); ++i)
        index_.emplace(this->begin()[static_cast<std::ptrdiff_t>(i)].first, i);
    }
    auto i = index_.find(Key(key));
    return i == index_.end() ? this->size() : i->second;
  }

  mutable std::unordered_map<Key, size_t> index_;
};

/// JSON with members in the order they were given.
using json = nlohmann::basic_json<indexed_map>;

/// Parses UTF-8 JSON text whose objects and arrays nest at most `max_depth` deep.
result<json> parse_json(std::string_view text, size_t max_depth = 256);

/// Compact text; bytes that are not UTF-8 become U+FFFD.
std::string dump_json(const json& value);

/// `{"code", "message", "op", "retryable", "context"}`, as the HTTP API writes an error.
json error_to_json(const error& x);

/// The reverse, for clients and for what the registry stored.
error error_from_json(const json& value);

/// RFC 3339 UTC with milliseconds.
std::string rfc3339_ms(int64_t ms_since_epoch);

/// The value of a JSON member named `*_s`: seconds as a number.
json seconds_to_json(std::chrono::nanoseconds value);

} // namespace troupe
