#include "backends/isolated/accounts.hpp"

#include "backends/isolated/options.hpp"
#include "messages/unique_fd.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <utility>

namespace troupe::backends::isolated {

namespace {

constexpr uint32_t first_account = 2000;
constexpr size_t max_accounts = 1000;

bool is_account_name(const std::string& name) {
  return !name.empty() && name.size() <= 32
         && std::all_of(name.begin(), name.end(), [](unsigned char c) {
              return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
            });
}

} // namespace

accounts::accounts(const sandbox_config& config, bool mapped) {
  constexpr auto own = default_sandbox_user;
  auto id = [&](uint32_t x) { return mapped ? x : 0; };
  by_name_["root"] = {0, 0, {}};
  by_name_["sandbox"] = {id(own), id(own), {}};
  auto next = first_account;
  auto add = [&](const std::string& name) {
    if (by_name_.emplace(name, user_ids{id(next), id(next), {}}).second) {
      if (mapped)
        by_name_[name].groups = {own};
      ++next;
    }
  };
  for (const auto& x : config.users)
    add(x.name);
  for (const auto& g : config.groups)
    for (const auto& x : g.users)
      add(x.name);
}

result<user_ids> accounts::ids_of(const std::optional<std::string>& user) const {
  auto i = by_name_.find(user && !user->empty() ? *user : "sandbox");
  if (i == by_name_.end())
    return unexpected{make_error(errc::sandbox_config_invalid, op::exec,
                                 "there is no user `" + *user + "` in this session")
                        .with("user", *user)};
  return i->second;
}

result<void> accounts::write(const sandbox_config& config, launch_plan& out) const {
  if (config.users.empty() && config.groups.empty())
    return {};
  auto refuse = [](const std::string& name) {
    return unexpected{make_error(errc::sandbox_config_invalid, op::start,
                                 "`" + name + "` cannot be the name of a user or a group")
                        .with("name", name)};
  };
  if (by_name_.size() + config.groups.size() > max_accounts)
    return refuse("too many");
  std::string passwd = "root:x:0:0:root:/root:/bin/sh\n";
  std::string group = "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n";
  std::string members;
  for (const auto& [name, ids] : by_name_) {
    if (!is_account_name(name))
      return refuse(name);
    if (name == "root")
      continue;
    auto id = std::to_string(ids.uid);
    passwd += name + ":x:" + id + ":" + std::to_string(ids.gid) + "::" + config.inside_root
              + ":/bin/sh\n";
    group += name + ":x:" + std::to_string(ids.gid) + ":";
    if (name == "sandbox")
      for (const auto& [member, other] : by_name_)
        if (other.uid >= first_account)
          (group += group.back() == ':' ? "" : ",") += member;
    group += '\n';
  }
  passwd += "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\n";
  auto gid = first_account + static_cast<uint32_t>(max_accounts);
  for (const auto& x : config.groups) {
    if (!is_account_name(x.name))
      return refuse(x.name);
    if (by_name_.count(x.name) > 0)
      continue;
    group += x.name + ":x:" + std::to_string(gid++) + ":";
    for (const auto& member : x.users)
      (group += group.back() == ':' ? "" : ",") += member.name;
    group += '\n';
  }
  for (const auto& [name, text] : {std::pair{"passwd", &passwd}, std::pair{"group", &group}}) {
    auto path = config.private_dir + "/" + name;
    unique_fd fd{::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    if (!fd || ::fchmod(fd.get(), 0644) != 0
        || workspace::write_all(fd.get(), text->data(), text->size()) < 0)
      return unexpected{make_error(errc::workspace_start_error, op::start,
                                   "cannot make " + path + ": " + std::strerror(errno))
                          .with("path", path)};
    out.mounts.push_back(
      {mount_kind::handed, mount_read_only, path, std::string{"etc/"} + name, 0, 0});
  }
  return {};
}

} // namespace troupe::backends::isolated
