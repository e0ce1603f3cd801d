// Memory of kernels.
#pragma once
#include <cstdint>
#include <cstdlib>

namespace {

// Memory that a thread keeps from call to call: fresh pages would cost more than what is written to them.
class Scratch {
 public:
  ~Scratch() { std::free(memory_); }

  uint8_t* room(int64_t bytes) {
    if (bytes > bytes_) {
      std::free(memory_);
      memory_ = static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
      bytes_ = bytes;
    }
    return memory_;
  }

 private:
  uint8_t* memory_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace
