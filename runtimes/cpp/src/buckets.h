// Row counts that edits are padded to, so that many edits share few shapes (sige_deploy/buckets.py).
#pragma once

#include <cstdint>
#include <vector>

#include "manifest.h"

namespace sige {

class Buckets {
 public:
  explicit Buckets(const Manifest& manifest);

  // Padded rows of each level: those of the bucket of least work that holds `counts`, 0 for levels without active
  // pixels.
  std::vector<int32_t> fit(const std::vector<int32_t>& counts) const;

 private:
  std::vector<std::vector<int32_t>> rows_;  // of each bucket, least work first; the last holds every pixel
};

}  // namespace sige
