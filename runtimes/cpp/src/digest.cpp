#include "digest.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <cerrno>
#include <new>
#include <vector>

namespace sige {

Digest::Digest() : context_(EVP_MD_CTX_new()) {
  if (context_ && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr)) return;
  EVP_MD_CTX_free(context_);
  throw std::bad_alloc();
}

Digest::~Digest() { EVP_MD_CTX_free(context_); }

void Digest::add(const void* data, size_t bytes) { EVP_DigestUpdate(context_, data, bytes); }

std::string Digest::hex() {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int length = 0;
  EVP_DigestFinal_ex(context_, digest, &length);
  std::string hex;
  for (unsigned int i = 0; i < length; ++i) {
    hex += "0123456789abcdef"[digest[i] >> 4];
    hex += "0123456789abcdef"[digest[i] & 15];
  }
  return hex;
}

std::string sha256(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return "";
  Digest digest;
  std::vector<char> piece(1 << 20);
  ssize_t count = 0;
  while ((count = ::read(descriptor, piece.data(), piece.size())) > 0)
    digest.add(piece.data(), static_cast<size_t>(count));
  const int failed = errno;
  ::close(descriptor);
  errno = failed;
  return count < 0 ? "" : digest.hex();
}

}  // namespace sige
