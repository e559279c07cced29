// Work of a CUDA stream, captured as graphs.
#pragma once

#include <list>
#include <map>
#include <set>
#include <vector>

#include "captures.h"
#include "cuda.h"

namespace sige {

// The first time a key comes its work runs as it is, when it comes again it is captured. Captured graphs stay within
// `budget` bytes: the least recently used go. Work that cannot be captured (it waits for the device, or copies from
// host memory that it gives back) goes on running as it is.
class CudaCaptures : public Captures {
 public:
  static constexpr size_t BUDGET = 256 << 20;  // bytes of device memory for the captured graphs of one session

  explicit CudaCaptures(std::shared_ptr<CudaMemory> memory, size_t budget = BUDGET)
      : memory_(std::move(memory)), budget_(budget) {}
  ~CudaCaptures() override;

  bool run(const std::string& key, const std::function<void()>& work) override;
  void forget(const std::string& key) override;
  size_t size() const override { return captured_.size(); }

 private:
  struct Captured {
    std::string key;
    cudaGraphExec_t launchable;
    size_t bytes;
  };
  using Nodes = std::vector<cudaGraphNode_t>;

  std::list<Captured>::iterator find(const std::string& key);
  bool capture(const std::string& key, const std::function<void()>& work);
  cudaGraph_t record(const std::function<void()>& work);
  Nodes nodes(cudaGraph_t graph) const;
  bool make_repeatable(cudaGraph_t graph, const Nodes& nodes) const;
  bool stays(cudaGraphNode_t node) const;
  void bypass(cudaGraph_t graph, cudaGraphNode_t node) const;
  void release(std::list<Captured>::iterator captured);

  std::shared_ptr<CudaMemory> memory_;
  size_t budget_;
  std::list<Captured> captured_;  // the most recently used first
  std::set<std::string> seen_, refused_;
};

}  // namespace sige
