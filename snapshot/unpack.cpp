#include "snapshot/unpack.hpp"

#include "snapshot/archive_budget.hpp"
#include "snapshot/pack.hpp"
#include "snapshot/tar_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace troupe::snapshot {

namespace {

/// One pass over an archive.
class unpacker {
public:
  unpacker(byte_source& input, tree_writer& out, const std::string& root, name_policy names,
           const archive_limits& limits, tree_index* index, job& work)
    : reader_(input), out_(out), root_(root), names_(names), budget_(limits, root), index_(index),
      work_(work) {}

  result<void> run() {
    for (;;) {
      if (auto ok = work_.step(); !ok)
        return ok;
      auto more = reader_.next(member_);
      if (!more)
        return unexpected(std::move(more.error()));
      if (!*more)
        return check(out_.finish());
      if (auto ok = put(); !ok)
        return ok;
    }
  }

private:
  result<void> put() {
    auto [path, violation] = check_member(member_, names_);
    if (!violation.empty())
      return refuse(violation);
    if (auto ok = budget_.add_member(member_.name, path.empty()); !ok)
      return ok;
    auto depth = static_cast<size_t>(std::ranges::count(path, '/')) + 1;
    if (path.size() > max_path_size || depth > max_path_depth)
      return refuse("path too long");
    switch (member_.kind) {
      case member_kind::directory:
        if (index_ && !path.empty())
          index_->add_directory(path, member_.mode);
        if (auto ok = check(out_.add_directory(path, member_.name, member_.mode, member_.mtime));
            !ok)
          return ok;
        return put_attributes();
      case member_kind::symlink:
        if (index_)
          index_->add_symlink(path, member_.link_target);
        return check(out_.add_symlink(path, member_.name, member_.link_target, member_.mtime));
      case member_kind::hard_link: {
        auto target = hard_link_path(member_.link_target);
        if (index_)
          index_->add_hard_link(path, target);
        return check(out_.add_hard_link(path, member_.name, target));
      }
      default: return put_file(path);
    }
  }

  result<void> put_file(const std::string& path) {
    // The logical size, holes included: what is read back when the workspace is saved again.
    if (auto ok = budget_.add_content(member_.name, member_.size); !ok)
      return ok;
    if (auto ok = check(out_.begin_file(path, member_.name)); !ok)
      return ok;
    auto bytes_before = work_.bytes;
    for (;;) {
      if (auto ok = work_.step(); !ok)
        return ok;
      auto piece = reader_.data();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->data.empty())
        break;
      if (piece->offset + piece->data.size() > member_.size)
        return unexpected(damaged("more data than the member's size"));
      if (index_)
        content_.update(piece->data);
      if (auto ok = check(out_.write_file(piece->data, piece->offset)); !ok)
        return ok;
      work_.bytes = bytes_before + piece->offset + piece->data.size();
    }
    work_.bytes = bytes_before + member_.size;
    ++work_.files;
    if (index_)
      index_->add_file(path, member_.mode, member_.size, content_.finish());
    if (auto ok = put_attributes(); !ok)
      return ok;
    return check(out_.end_file(member_.size, member_.mode, member_.mtime));
  }

  /// Of a snapshot of ours only: the contract's archives have none.
  result<void> put_attributes() {
    return names_ == name_policy::own ? check(out_.set_xattrs(member_.xattrs)) : result<void>{};
  }

  result<void> check(const tree_writer::outcome& fault) {
    if (!fault)
      return {};
    if (fault->error != 0)
      return unexpected(cannot_write(root_, fault->error).with("member", member_.name));
    return unexpected(refused(root_, fault->reason)
                        .with("member", fault->member.empty() ? member_.name : fault->member));
  }

  result<void> refuse(std::string_view reason) {
    return unexpected(refused(root_, reason).with("member", member_.name));
  }

  tar_reader reader_;
  tree_writer& out_;
  const std::string& root_;
  name_policy names_;
  archive_budget budget_;
  tree_index* index_;
  sha256 content_;
  job& work_;
  tar_member member_;
};

} // namespace

error cannot_write(const std::string& root, int err) {
  if (err != ENOSPC && err != EDQUOT)
    return refused(root, std::strerror(err));
  return make_error(errc::no_space, op::write, "no space left for " + root)
    .with("path", root)
    .with("reason", std::strerror(err));
}

result<void> unpack_tree(byte_source& input, tree_writer& out, const std::string& root,
                         name_policy names, const archive_limits& limits, tree_index* index,
                         job& work) {
  return unpacker{input, out, root, names, limits, index, work}.run();
}

} // namespace troupe::snapshot
