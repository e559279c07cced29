// SHA-256, as the manifest, cache files and engine manifests have it.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

struct evp_md_ctx_st;

namespace sige {

// The digest of bytes that come in pieces.
class Digest {
 public:
  Digest();
  Digest(const Digest&) = delete;
  ~Digest();
  void add(const void* data, size_t bytes);
  // Hex; nothing can be added afterwards.
  std::string hex();

 private:
  evp_md_ctx_st* context_;
};

// SHA-256 (hex) of a file; empty, with errno, where it cannot be read.
std::string sha256(const std::filesystem::path& file);

}  // namespace sige
