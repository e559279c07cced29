// From edited pixels to the index feeds of the edit graph, by the kernels' sige_indices_*.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device_memory.h"
#include "geometry.h"

namespace sige {

// Padded length for n entries (bucket of sige_deploy/indices.py).
int64_t bucket(int64_t n);

// Mask [height, width] of a mask of another size (resample_mask of sige_deploy/masks.py); 0 or 1.
std::vector<uint8_t> resampled(const Mask& mask, int64_t height, int64_t width, double threshold);

// Feeds lie in buffers at fixed addresses of one memory, and a halo is always as long as its source level.
class Indexer {
 public:
  // wanted: names of the edit graph's inputs. words: int32 words of room for status beside the counts, see `status`.
  // Throws Error where the geometries do not suit the kernels.
  Indexer(Memory& memory, const Manifest& manifest, const std::vector<Geometry>& geometries,
          const std::set<std::string>& wanted, size_t words);
  ~Indexer();

  // int32 [words], which come to the host with the counts; nothing here writes them (`Comparison` does).
  int32_t* status() const;

  // Makes the levels' masks and counts, and sends counts and status to the host; stream-ordered. masks: of each spatial
  // input, uint8 of its size, nonzero where it was edited.
  void begin(const std::vector<const uint8_t*>& masks);

  // Waits for `begin`; active pixels of each level, then the status words as of then.
  const std::vector<int32_t>& counts_and_status();

  // Makes the feeds of that edit, again if called again; stream-ordered. rows: padded count P of each level, at least
  // its count, at most bucket(pixels), and 0 where that is 0. The feeds are views of what the next call overwrites:
  // "active.<level>", "halo.<geometry>" (zeros after its last entry), "table.<geometry>", "weights.<geometry>".
  Buffers finish(const std::vector<int32_t>& rows);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace sige
