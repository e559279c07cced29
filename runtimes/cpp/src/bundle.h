// A bundle's folder: checked before anything in it is parsed or loaded.
#pragma once

#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "manifest.h"

namespace sige {

class Bundle {
 public:
  // Checks manifest, versions, paths, sizes and SHA-256 of every file; throws Error on the first thing that is wrong.
  explicit Bundle(const std::filesystem::path& folder);

  const Manifest& manifest() const { return manifest_; }
  const std::filesystem::path& root() const { return root_; }

  // Path of one of the files; throws Error if any of them was replaced since the bundle was opened.
  std::filesystem::path path(const std::string& name) const;

 private:
  using Stamps = std::vector<std::tuple<uint64_t, int64_t, int64_t, int64_t>>;  // inode, time of change, size

  Stamps stamps() const;
  void check_file(const std::string& name, const FileSpec& spec) const;

  std::filesystem::path root_;
  Manifest manifest_;
  Stamps stamps_;
};

}  // namespace sige
