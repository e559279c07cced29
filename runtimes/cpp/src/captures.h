// Work that repeats on fixed buffers: run as it is, or captured once as a CUDA graph and then launched.
#pragma once

#include <functional>
#include <string>

namespace sige {

// Runs work by key: the same key always means the same work on the same addresses.
class Captures {
 public:
  virtual ~Captures() = default;
  // Has the work done, stream-ordered; returns whether a captured graph did it.
  virtual bool run(const std::string& key, const std::function<void()>& work) = 0;
  // The addresses of this key's work are no longer valid.
  virtual void forget(const std::string& key) = 0;
  // Captured graphs that are kept.
  virtual size_t size() const = 0;
};

// Work without graphs, for memory that has none.
class Direct : public Captures {
 public:
  bool run(const std::string&, const std::function<void()>& work) override {
    work();
    return false;
  }
  void forget(const std::string&) override {}
  size_t size() const override { return 0; }
};

}  // namespace sige
