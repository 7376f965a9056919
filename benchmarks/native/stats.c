/* The measured window: answers, their latencies, and the client's own use of its CPU. */
#include "client.h"

/* Latencies in nanoseconds, 64 steps to each power of two: 1.6 % is the largest error, and no sample is ever dropped. */
#define STEP_BITS 6
#define STEPS (1u << STEP_BITS)

static uint64_t histogram[64 * STEPS];
static uint64_t count, body_bytes, latency_sum, latency_max, opened_at, closed_at;
static double cpu_at_start, cpu_used;
static bool measuring;
uint64_t total_count;
long awaited_count;
bool draining;

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static unsigned bucket(uint64_t value)
{
    unsigned power;
    if (value < STEPS) return (unsigned)value;
    power = 63u - (unsigned)__builtin_clzll(value);
    return (power - STEP_BITS + 1) * STEPS + (unsigned)(value >> (power - STEP_BITS)) - STEPS;
}

static double bucket_start(unsigned index)
{
    unsigned row = index / STEPS;
    if (!row) return index;
    return (double)((uint64_t)(STEPS + index % STEPS) << (row - 1));
}

static double percentile_us(double part)
{
    uint64_t wanted = (uint64_t)(part * (double)count), seen = 0;
    for (unsigned i = 0; i < 64 * STEPS; i++) {
        seen += histogram[i];
        if (seen > wanted) return bucket_start(i) / 1e3;
    }
    return (double)latency_max / 1e3;
}

void stats_open_window(void)
{
    measuring = true;
    cpu_at_start = cpu_seconds();
    opened_at = now_ns();
}

void stats_close_window(void)
{
    measuring = false;
    closed_at = now_ns();
    cpu_used = cpu_seconds() - cpu_at_start;
}

bool stats_empty(void)
{
    return !count;
}

void stats_answer(uint64_t latency_ns)
{
    total_count++;
    awaited_count--;
    if (!measuring) return;
    count++;
    latency_sum += latency_ns;
    if (latency_ns > latency_max) latency_max = latency_ns;
    histogram[bucket(latency_ns)]++;
}

void stats_answer_due(uint64_t due, uint64_t now)
{
    bool was = measuring;
    measuring = opened_at && due >= opened_at && (was || due < closed_at);
    stats_answer(now - due);
    measuring = was;
}

void stats_body(size_t size)
{
    if (measuring) body_bytes += size;
}

void stats_print(double connect_seconds)
{
    double seconds = (double)(closed_at - opened_at) / 1e9;
    printf("{\"mode\": \"%s\", \"connections\": %ld, \"size\": %ld, \"senders\": %ld, \"depth\": %ld, \"seconds\": %.4f, "
           "\"count\": %llu, \"rate\": %.1f, \"body_bytes_rate\": %.1f, "
           "\"latency_us\": {\"mean\": %.1f, \"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, "
           "\"p999\": %.1f, \"max\": %.1f}, \"client_cpu\": %.3f, \"connect_seconds\": %.4f, \"reconnects\": %ld}\n",
           options.mode, options.connections, options.size, options.senders, options.depth, seconds,
           (unsigned long long)count, (double)count / seconds, (double)body_bytes / seconds, count ? (double)latency_sum / (double)count / 1e3 : 0.0,
           percentile_us(0.5), percentile_us(0.9), percentile_us(0.99), percentile_us(0.999), (double)latency_max / 1e3,
           cpu_used / seconds, connect_seconds, reconnect_count);
    fflush(stdout);
}
