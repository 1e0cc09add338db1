// Independent pieces of work on a few threads, each with scratch of its own. One thread: no thread
// is started.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace primed {

constexpr std::size_t kThreadsMax = 64;

// Calls each(index, scratch) for every index below `count`. The first exception is thrown again
// when all threads have ended.
template <typename Scratch, typename Each>
void parallel(std::size_t count, std::size_t threads, Each&& each) {
    std::atomic<std::size_t> next{0};
    std::exception_ptr failed;
    std::mutex guard;
    auto work = [&]() noexcept {
        try {
            Scratch scratch;
            for (std::size_t i; (i = next.fetch_add(1)) < count;) each(i, scratch);
        } catch (...) {
            next = count;  // nobody begins another piece
            const std::lock_guard lock(guard);
            if (!failed) failed = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    others.reserve(kThreadsMax);
    try {
        for (std::size_t t = 1; t < std::min({threads, count, kThreadsMax}); ++t)
            others.emplace_back(work);
    } catch (const std::system_error&) {
        // the system has no more threads: those there are do it all
    }
    work();
    for (std::thread& other : others) other.join();
    if (failed) std::rethrow_exception(failed);
}

}  // namespace primed
