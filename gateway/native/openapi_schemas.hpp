#pragma once

#include "messages/json.hpp"

#include <initializer_list>
#include <string>
#include <vector>

// JSON schemas (draft 2020-12, as OpenAPI 3.1 has them) for the description that the server serves
// of itself.

namespace troupe::gateway::schema {

json text();
json number();
json integer();
json boolean();
json any_object();
/// One of these texts.
json one_of(std::initializer_list<const char*> values);
json nullable(json x);
json list_of(json item);
json map_of(json value);
/// An object with these members and no other.
json object(json members, const std::vector<std::string>& required = {});
/// An object that has all of these members and no other, as answers are.
json full_object(json members);
/// A page of a list.
json page_of(json item);
/// One of `components`.
json reference(const std::string& name);

json limits();
json network();

/// What the document names once: `components.schemas`.
json components();

} // namespace troupe::gateway::schema
