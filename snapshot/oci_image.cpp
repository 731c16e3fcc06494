#include "snapshot/oci_image.hpp"

#include "messages/ids.hpp"
#include "messages/json.hpp"
#include "messages/unique_fd.hpp"
#include "snapshot/byte_source.hpp"
#include "snapshot/digest.hpp"
#include "snapshot/member_rules.hpp"
#include "snapshot/tar_reader.hpp"
#include "snapshot/tree_writer.hpp"
#include "workspace/tree.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::snapshot {

namespace {

constexpr size_t max_document = 4 << 20;
constexpr size_t max_layers = 256;
constexpr std::string_view whiteout = ".wh.";
constexpr const char* opaque = ".wh..wh..opq";

error bad_image(const std::string& path, const std::string& why) {
  return make_error(errc::sandbox_config_invalid, op::start,
                    "the image " + path + " cannot be a root file system: " + why)
    .with("path", path)
    .with("cause", why);
}

struct descriptor {
  std::string hex; ///< of its SHA-256
  uint64_t size = 0;
  std::string content; ///< of a layer: the SHA-256 of what it decodes to; empty: nobody says
};

/// A text member, or "".
std::string text_of(const json& object, const char* key) {
  auto i = object.is_object() ? object.find(key) : object.end();
  return object.is_object() && i != object.end() && i->is_string() ? i->get<std::string>() : "";
}

result<descriptor> read_descriptor(const std::string& layout, const json& value) {
  constexpr std::string_view kind = "sha256:";
  auto digest = text_of(value, "digest");
  auto hex = digest.starts_with(kind) ? digest.substr(kind.size()) : std::string{};
  if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdef") != std::string::npos
      || !value.contains("size") || !value["size"].is_number_unsigned())
    return unexpected(bad_image(layout, "a descriptor without a digest by SHA-256 and a size"));
  return descriptor{hex, value["size"].get<uint64_t>(), {}};
}

/// A blob of the image; what was read of it is checked by `verified`.
class blob final : public byte_source {
public:
  blob(int fd, uint64_t size) : input_(fd, size + 1), left_(size) {}

  result<std::string_view> next() override {
    auto piece = input_.next();
    if (!piece)
      return piece;
    if (piece->size() > left_)
      return unexpected(damaged("more data than its size"));
    left_ -= piece->size();
    content_.update(*piece);
    return piece;
  }

  /// Reads on to the end. Whether all was what `hex` names.
  bool verified(const std::string& hex) {
    for (;;) {
      auto piece = next();
      if (!piece)
        return false;
      if (piece->empty())
        return left_ == 0 && to_hex(content_.finish()) == hex;
    }
  }

private:
  file_source input_;
  uint64_t left_;
  sha256 content_;
};

/// What a layer is when it is decoded.
class hashed final : public byte_source {
public:
  explicit hashed(byte_source& from) : from_(from) {}

  result<std::string_view> next() override {
    auto piece = from_.next();
    if (piece)
      content_.update(*piece);
    return piece;
  }

  /// Reads on to the end: what follows the last member counts too.
  result<std::string> digest() {
    for (;;) {
      auto piece = next();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->empty())
        return to_hex(content_.finish());
    }
  }

private:
  byte_source& from_;
  sha256 content_;
};

class image {
public:
  image(std::string layout, unique_fd folder)
    : layout_(std::move(layout)), folder_(std::move(folder)) {}

  /// Finds the manifest of this machine's kind.
  result<descriptor> find() const {
    auto text = read("index.json", max_document);
    if (!text)
      return unexpected(std::move(text.error()));
    auto value = parse_json(*text);
    for (int depth = 0; value && depth < 4; ++depth) {
      if (!value->is_object() || !value->contains("manifests") || !(*value)["manifests"].is_array())
        break;
      auto chosen = choose((*value)["manifests"]);
      if (!chosen)
        return unexpected(std::move(chosen.error()));
      auto found = read_descriptor(layout_, **chosen);
      if (!found)
        return found;
      if (text_of(**chosen, "mediaType").find("index") == std::string::npos
          && text_of(**chosen, "mediaType").find("manifest.list") == std::string::npos)
        return found;
      value = document(*found);
    }
    return unexpected(bad_image(layout_, "its index names no manifest"));
  }

  result<std::vector<descriptor>> layers(const descriptor& manifest) const {
    auto value = document(manifest);
    if (!value)
      return unexpected(std::move(value.error()));
    if (!value->is_object() || !value->contains("layers") || !(*value)["layers"].is_array()
        || (*value)["layers"].empty() || (*value)["layers"].size() > max_layers)
      return unexpected(bad_image(layout_, "its manifest has no layers, or too many"));
    std::vector<descriptor> out;
    for (const auto& x : (*value)["layers"]) {
      auto one = read_descriptor(layout_, x);
      if (!one)
        return unexpected(std::move(one.error()));
      out.push_back(std::move(*one));
    }
    if (auto named = name_contents(*value, out); !named)
      return unexpected(std::move(named.error()));
    return out;
  }

  /// Unpacks one layer into an empty directory. Whiteouts are files there.
  result<void> unpack(const descriptor& layer, int into) const {
    auto fd = open("blobs/sha256/" + layer.hex);
    if (!fd)
      return unexpected(std::move(fd.error()));
    blob source{fd->get(), layer.size};
    std::string content;
    auto done = unpack(source, into, content);
    // A wrong digest says more than what is wrong because of it.
    if (!source.verified(layer.hex))
      return unexpected(
        bad_image(layout_, "the layer " + layer.hex + " does not match its digest"));
    if (!done)
      return unexpected(bad_image(layout_, "the layer " + layer.hex + ": " + done.error().message));
    if (!layer.content.empty() && content != layer.content)
      return unexpected(bad_image(layout_, "what the layer " + layer.hex
                                             + " holds does not match the image's diff_ids")
                          .with("layer", "sha256:" + layer.hex));
    return {};
  }

private:
  /// From the configuration, which names what every layer decodes to. That of an artifact that is
  /// no image names none.
  result<void> name_contents(const json& manifest, std::vector<descriptor>& layers) const {
    constexpr std::string_view kind = "sha256:";
    if (!manifest.contains("config"))
      return {};
    auto at = read_descriptor(layout_, manifest["config"]);
    if (!at)
      return unexpected(std::move(at.error()));
    auto config = document(*at);
    if (!config)
      return unexpected(std::move(config.error()));
    if (!config->is_object() || !config->contains("rootfs"))
      return {};
    const auto& rootfs = (*config)["rootfs"];
    auto ids = rootfs.is_object() && rootfs.contains("diff_ids") ? rootfs["diff_ids"] : json{};
    if (!ids.is_array() || ids.size() != layers.size())
      return unexpected(bad_image(layout_, "its diff_ids are not one for each layer"));
    for (size_t i = 0; i < layers.size(); ++i) {
      auto id = ids[i].is_string() ? ids[i].get<std::string>() : std::string{};
      if (!id.starts_with(kind) || id.size() != kind.size() + 64)
        return unexpected(bad_image(layout_, "a diff_id that is no SHA-256"));
      layers[i].content = id.substr(kind.size());
    }
    return {};
  }

  result<unique_fd> open(const std::string& name) const {
    unique_fd fd{workspace::open_beneath(folder_.get(), name, O_RDONLY | O_NONBLOCK)};
    struct stat info {};
    if (!fd || ::fstat(fd.get(), &info) != 0 || !S_ISREG(info.st_mode))
      return unexpected(bad_image(layout_, "there is no file " + name));
    return fd;
  }

  result<std::string> read(const std::string& name, uint64_t limit) const {
    auto fd = open(name);
    if (!fd)
      return unexpected(std::move(fd.error()));
    file_source input{fd->get(), limit};
    std::string out;
    for (;;) {
      auto piece = input.next();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->empty())
        return out;
      out += *piece;
    }
  }

  result<json> document(const descriptor& x) const {
    if (x.size > max_document)
      return unexpected(bad_image(layout_, "a document that is too large"));
    auto text = read("blobs/sha256/" + x.hex, x.size + 1);
    if (!text)
      return unexpected(std::move(text.error()));
    sha256 content;
    content.update(*text);
    if (text->size() != x.size || to_hex(content.finish()) != x.hex)
      return unexpected(bad_image(layout_, "the document " + x.hex + " does not match its digest"));
    auto value = parse_json(*text);
    if (!value)
      return unexpected(bad_image(layout_, "the document " + x.hex + " is no JSON"));
    return value;
  }

  result<const json*> choose(const json& all) const {
    utsname machine{};
    ::uname(&machine);
    auto name = std::string_view{machine.machine};
    auto wanted = name == "x86_64" ? "amd64" : name == "aarch64" ? "arm64" : name;
    const json* found = nullptr;
    for (const auto& x : all) {
      auto platform = x.is_object() && x.contains("platform") ? x["platform"] : json::object();
      auto architecture = text_of(platform, "architecture");
      if (architecture != wanted && !(architecture.empty() && all.size() == 1))
        continue;
      if (found != nullptr)
        return unexpected(bad_image(layout_, "it has several images for this machine"));
      found = &x;
    }
    if (found == nullptr)
      return unexpected(bad_image(layout_, "it has no image for this machine"));
    return found;
  }

  /// `content` becomes the digest of what was decoded.
  result<void> unpack(byte_source& source, int into, std::string& content) const {
    auto plain = decoded(source);
    if (!plain)
      return unexpected(std::move(plain.error()));
    hashed tar{**plain};
    tar_reader reader{tar};
    tree_writer out{into};
    auto check = [](const tree_writer::outcome& fault) -> result<void> {
      if (!fault)
        return {};
      return unexpected(
        damaged(fault->error != 0 ? std::strerror(fault->error) : fault->reason.c_str()));
    };
    for (tar_member member;;) {
      auto more = reader.next(member);
      if (!more)
        return unexpected(std::move(more.error()));
      if (!*more) {
        auto digest = tar.digest();
        if (!digest)
          return unexpected(std::move(digest.error()));
        content = std::move(*digest);
        return check(out.finish());
      }
      if (member.kind == member_kind::other)
        continue; // devices and pipes
      auto [path, violation] = check_member(member, name_policy::own);
      if (!violation.empty())
        return unexpected(damaged(violation));
      if (path.empty())
        continue;
      auto put = [&]() -> result<void> {
        switch (member.kind) {
          case member_kind::directory:
            return check(out.add_directory(path, member.name, member.mode & 0777, member.mtime));
          case member_kind::symlink:
            return check(out.add_symlink(path, member.name, member.link_target, member.mtime));
          case member_kind::hard_link:
            return check(out.add_hard_link(path, member.name, hard_link_path(member.link_target)));
          default: return put_file(reader, out, member, path, check);
        }
      };
      if (auto ok = put(); !ok)
        return ok;
    }
  }

  template <class Check>
  static result<void> put_file(tar_reader& reader, tree_writer& out, const tar_member& member,
                               const std::string& path, const Check& check) {
    if (auto ok = check(out.begin_file(path, member.name)); !ok)
      return ok;
    for (;;) {
      auto piece = reader.data();
      if (!piece)
        return unexpected(std::move(piece.error()));
      if (piece->data.empty())
        return check(out.end_file(member.size, member.mode & 0777, member.mtime));
      if (piece->offset + piece->data.size() > member.size)
        return unexpected(damaged("more data than the member's size"));
      if (auto ok = check(out.write_file(piece->data, piece->offset)); !ok)
        return ok;
    }
  }

  std::string layout_;
  unique_fd folder_;
};

/// Puts a layer's tree over another, and takes away what it says is gone. Both are made by
/// strangers: no link of either is followed.
class layer_merge {
public:
  layer_merge(int layer, int base) : layer_(layer), base_(base) {}

  result<void> run() {
    if (auto ok = workspace::walk(layer_, [this](const auto& x) { return take_away(x); });
        !ok || failure_)
      return outcome(std::move(ok));
    return outcome(workspace::walk(layer_, [this](const auto& x) { return put(x); }));
  }

private:
  result<void> outcome(result<void> walked) {
    return failure_ ? result<void>{unexpected(std::move(*failure_))} : std::move(walked);
  }

  workspace::walk_next fail(error why) {
    failure_ = std::move(why);
    return workspace::walk_next::stop;
  }

  /// Of an item's directory in the base; empty: not there.
  unique_fd parent(std::string_view path) const {
    auto name = workspace::split_last(std::string{path}).parent;
    return unique_fd{
      workspace::open_beneath(base_, name, O_RDONLY | O_DIRECTORY, 0, RESOLVE_NO_SYMLINKS)};
  }

  workspace::walk_next take_away(const workspace::tree_item& x) {
    std::string_view name{x.name};
    auto at = parent(x.path);
    if (S_ISDIR(x.info->st_mode))
      return at ? workspace::walk_next::enter : workspace::walk_next::skip;
    if (!at || !name.starts_with(whiteout))
      return workspace::walk_next::skip;
    auto gone = name == opaque
                  ? workspace::remove_contents(at.get())
                  : workspace::remove_tree(at.get(), std::string{name.substr(whiteout.size())});
    return gone ? workspace::walk_next::skip : fail(std::move(gone.error()));
  }

  workspace::walk_next put(const workspace::tree_item& x) {
    if (std::string_view{x.name}.starts_with(whiteout))
      return workspace::walk_next::skip;
    auto at = parent(x.path);
    struct stat old {};
    auto is_there = ::fstatat(at.get(), x.name, &old, AT_SYMLINK_NOFOLLOW) == 0;
    auto is_directory = S_ISDIR(x.info->st_mode);
    if (is_there && !(is_directory && S_ISDIR(old.st_mode)))
      if (auto gone = workspace::remove_tree(at.get(), x.name); !gone)
        return fail(std::move(gone.error()));
    if (!is_directory)
      return ::renameat(x.parent_fd, x.name, at.get(), x.name) == 0
               ? workspace::walk_next::skip
               : fail(damaged(std::strerror(errno)));
    if ((::mkdirat(at.get(), x.name, 0755) != 0 && errno != EEXIST)
        || ::fchmodat(at.get(), x.name, x.info->st_mode & 0777, 0) != 0)
      return fail(damaged(std::strerror(errno)));
    return workspace::walk_next::enter;
  }

  int layer_;
  int base_;
  std::optional<error> failure_;
};

} // namespace

result<std::string> root_of_image(const std::string& root, const std::string& cache) {
  unique_fd folder{::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (!folder)
    return unexpected(bad_image(root, std::strerror(errno)));
  if (::faccessat(folder.get(), "oci-layout", F_OK, 0) != 0)
    return root;
  image source{root, std::move(folder)};
  auto manifest = source.find();
  if (!manifest)
    return unexpected(std::move(manifest.error()));
  auto place = cache + "/" + manifest->hex;
  auto made = workspace::open_or_make_directory(cache, 0700);
  if (!made)
    return unexpected(std::move(made.error()));
  if (::access(place.c_str(), F_OK) == 0)
    return place;
  auto layers = source.layers(*manifest);
  if (!layers)
    return unexpected(std::move(layers.error()));
  auto beside = cache + "/unpacking-" + random_hex(8);
  auto undo = [&](error why) {
    (void) workspace::remove_tree_at(beside);
    return unexpected(std::move(why));
  };
  auto base = workspace::open_or_make_directory(beside + "/root", 0755);
  if (!base)
    return undo(std::move(base.error()));
  for (const auto& layer : *layers) {
    auto over = workspace::open_or_make_directory(beside + "/layer", 0700);
    if (!over)
      return undo(std::move(over.error()));
    if (auto ok = source.unpack(layer, over->get()); !ok)
      return undo(std::move(ok.error()));
    if (auto ok = layer_merge{over->get(), base->get()}.run(); !ok)
      return undo(bad_image(root, "the layer " + layer.hex + ": " + ok.error().message));
    if (auto ok = workspace::remove_tree_at(beside + "/layer"); !ok)
      return undo(std::move(ok.error()));
  }
  // Its name says that it is whole, also after the machine has died.
  if (::fchmod(base->get(), 0755) != 0 || ::syncfs(base->get()) != 0
      || ::rename((beside + "/root").c_str(), place.c_str()) != 0)
    return undo(bad_image(root, std::strerror(errno)));
  (void) workspace::remove_tree_at(beside);
  return place;
}

} // namespace troupe::snapshot
