// From edited pixels to the index feeds of the edit graph, by the kernels' sige_indices_*.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "geometry.h"
#include "manifest.h"

namespace sige {

// Padded length for n entries (bucket of sige_deploy/indices.py).
int64_t bucket(int64_t n);

// Mask [height, width] of a mask of another size (resample_mask of sige_deploy/masks.py); 0 or 1.
std::vector<uint8_t> resampled(const Mask& mask, int64_t height, int64_t width, double threshold);

class Indexer {
 public:
  // wanted: names of the edit graph's inputs. Throws Error where the geometries do not suit the kernels.
  Indexer(const Manifest& manifest, std::vector<Geometry> geometries, const std::set<std::string>& wanted);
  ~Indexer();

  // Active pixels by level for the edited pixels of each spatial input, uint8 of its size.
  const std::vector<int32_t>& begin(const std::vector<const uint8_t*>& masks);

  // The feeds of that edit: "active.<level>", "halo.<geometry>", "table.<geometry>", "weights.<geometry>". They are
  // overwritten by the next call.
  const std::map<std::string, View>& finish();

 private:
  struct Memory;
  std::unique_ptr<Memory> memory_;
};

}  // namespace sige
