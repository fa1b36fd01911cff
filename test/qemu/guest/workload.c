/*
 * The guest's workload: it changes memory and disks all the time, and knows what each should hold.
 *
 * A migration is right when the guest at the destination reads what it wrote, so the guest itself is the
 * judge. Every unit that the workload writes (a page of memory, a block of a disk) is filled from edge to
 * edge with a pattern that is computed from where the unit is, how many times it has been written (its
 * generation), and which boot this is. The generation that each unit should have is kept apart from the
 * units. So verify finds
 *
 *   - corruption:   the content is not that of any generation of this unit;
 *   - a lost write: the content is in order, but of an older generation than the last one written ("stale");
 *   - a lost page of the bookkeeping itself: then what the units hold is *newer* than expected.
 *
 * Threads:
 *
 *   writers   each has one write outstanding at a time, on blocks that no other writer ever touches; where
 *             areas are shared, all write there too, at once and over each other: what is there last is not
 *             known here, so only that it is some whole write is checked; for the rest compare the images
 *   dirtier   rewrites pages of memory at a steady rate
 *   ticker    wakes every 10 ms, remembers the longest silence, and puts one byte on the debug port: the
 *             guest's clock stands still while the machine is stopped, so only who listens outside can time a
 *             stun
 *   control   (main) serves the line protocol on ttyS0
 *
 * Writers and dirtier work inside a gate, unit by unit; closing the gate waits until none of them is inside,
 * and then content and bookkeeping agree exactly.
 *
 * Line protocol on ttyS0, one line each way (see the commands at the end of this file):
 *
 *   ping                          pong
 *   stats                         {"writes":..,"longestMs":..,...}
 *   reset                         ok           longest times and the latency histogram start again
 *   verify                        {"pages":..,"badPages":..,"blocks":..,"badBlocks":..,...}
 *   pause | resume                ok           of the load; the answer to pause means: no write is on its way
 *   load WRITES_S DIRTY_MB_S      ok           other rates from now on
 *   poweroff                      ok           and the machine goes off
 *   anything else                 error ...
 *
 * At boot, once memory and disks are filled: "ready {...}".
 *
 * Parameters, from the kernel's command line as lh.NAME=VALUE: see struct parameter.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum {
  PAGE_BYTES = 4096,
  /* The unit of a disk's bookkeeping is the smallest write that a disk takes. */
  BLOCK_BYTES = 512,
  /* A writer's blocks come in stripes, dealt to the writers in turn; no write leaves its stripe. */
  STRIPE_BYTES = 256 << 10,
  STRIPE_BLOCKS = STRIPE_BYTES / BLOCK_BYTES,
  WRITE_BYTES = 8 << 10,
  /* An area that all writers share: the first of a disk, and its last. */
  SHARED_BYTES = 64 << 10,
  SHARED_BLOCKS = SHARED_BYTES / BLOCK_BYTES,
  DISKS_MAX = 8,
  WRITERS_MAX = 32,
  TICK_MS = 10,
  DEBUG_PORT = 0xe9,
};

static const uint64_t NS_PER_S = 1000000000, NS_PER_MS = 1000000;

/* ---- Small tools --------------------------------------------------------------------------------------- */

/*
 * Whatever cannot be done here makes the run worthless: say why on the console, and end (init's end is a
 * panic).
 */
static void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  fputs("workload: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit(1);
}

/*
 * The latest time that any thread has read, and the largest step back that any has seen: there must be none,
 * wherever the guest goes. Everybody reads the time here, so some thread has just before the machine is stopped,
 * and again right after.
 */
static _Atomic uint64_t clock_latest_ns, clock_back_ns;

static uint64_t now_ns(void) {
  /* First, as another thread may read a later time meanwhile. */
  uint64_t latest = atomic_load(&clock_latest_ns);
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  uint64_t ns = now.tv_sec * NS_PER_S + now.tv_nsec;
  if (ns < latest && latest - ns > atomic_load(&clock_back_ns)) atomic_store(&clock_back_ns, latest - ns);
  while (ns > latest && !atomic_compare_exchange_weak(&clock_latest_ns, &latest, ns)) {
  }
  return ns;
}

static void sleep_until(uint64_t at_ns) {
  struct timespec at = {.tv_sec = at_ns / NS_PER_S, .tv_nsec = at_ns % NS_PER_S};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) {
  }
}

/* splitmix64: spreads any input over all bits. */
static uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

static uint64_t random_below(uint64_t *state, uint64_t bound) { return mix((*state)++) % bound; }

/* Zeroed memory that takes room only where it is touched. */
static void *reserve(size_t bytes) {
  void *area = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) die("no room for %zu bytes", bytes);
  return area;
}

static void start_thread(void *(*run)(void *), void *argument) {
  pthread_t thread;
  int error = pthread_create(&thread, NULL, run, argument);
  if (error) die("no thread: %s", strerror(error));
}

/* ---- Parameters ---------------------------------------------------------------------------------------- */

static struct parameter {
  const char *name;
  long value;
} parameters[] = {
    {"mem_mb", 48},     /* memory that is stamped and verified */
    {"mem_hot_mb", 16}, /* the part of it that the dirtier rewrites (now and then it takes any page) */
    {"dirty_mb_s", 8},  /* how much of it, by whole pages */
    {"writes_s", 200},  /* disk writes a second, all disks and writers together */
    {"writers", 4},     /* threads, each with one write outstanding */
    {"hot_mb", 64},     /* where on each disk the writes go: this much from its start */
    {"fill_mb", 16},    /* how much of each disk's start is written before "ready"; its last stripe is too */
    {"mixed", 1},       /* 0: only 8 KiB writes; 1: also smaller and larger ones, and zeroes */
    {"shared", 0},      /* 1: a quarter of the writes goes to a disk's first and last 64 KiB, by all */
    {"seed", 1},
};

static long parameter(const char *name) {
  for (size_t i = 0; i < sizeof parameters / sizeof *parameters; i++)
    if (!strcmp(parameters[i].name, name)) return parameters[i].value;
  die("no parameter %s", name);
}

static void read_parameters(void) {
  static char line[4096];
  FILE *file = fopen("/proc/cmdline", "r");
  if (!file || !fgets(line, sizeof line, file)) die("no /proc/cmdline");
  fclose(file);
  for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
    if (strncmp(word, "lh.", 3)) continue;
    char *equals = strchr(word, '=');
    struct parameter *found = NULL;
    for (size_t i = 0; equals && i < sizeof parameters / sizeof *parameters; i++) {
      size_t length = strlen(parameters[i].name);
      if (length == (size_t)(equals - word - 3) && !memcmp(parameters[i].name, word + 3, length))
        found = &parameters[i];
    }
    char *end = NULL;
    if (found) found->value = strtol(equals + 1, &end, 10);
    if (!found || end == equals + 1 || *end || found->value < 0) die("bad parameter %s", word);
  }
}

/* ---- The gate ------------------------------------------------------------------------------------------ */

static pthread_mutex_t gate_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_changed = PTHREAD_COND_INITIALIZER;
static int gate_closed; /* how many hold it closed: pause, verify */
static int gate_inside;

static void gate_enter(void) {
  pthread_mutex_lock(&gate_lock);
  while (gate_closed) pthread_cond_wait(&gate_changed, &gate_lock);
  gate_inside++;
  pthread_mutex_unlock(&gate_lock);
}

static void gate_leave(void) {
  pthread_mutex_lock(&gate_lock);
  if (!--gate_inside && gate_closed) pthread_cond_broadcast(&gate_changed);
  pthread_mutex_unlock(&gate_lock);
}

/* Returns when nobody is inside any more. */
static void gate_close(void) {
  pthread_mutex_lock(&gate_lock);
  gate_closed++;
  while (gate_inside) pthread_cond_wait(&gate_changed, &gate_lock);
  pthread_mutex_unlock(&gate_lock);
}

static void gate_open(void) {
  pthread_mutex_lock(&gate_lock);
  if (!--gate_closed) pthread_cond_broadcast(&gate_changed);
  pthread_mutex_unlock(&gate_lock);
}

/* ---- Stamps -------------------------------------------------------------------------------------------- */

/*
 * A unit starts with a header that says in the clear which unit it is and of which generation, so that a bad
 * one can be told from a stale one; the rest counts up from a value mixed from the header. Units that differ
 * in place or generation differ in every word after the header, so a unit torn at any point is seen.
 */
static const uint64_t STAMP_MAGIC = 0x4c6f6e676861756c; /* "Longhaul" */
static const uint64_t STAMP_STEP = 0xd1342543de82ef95;
enum { MAGIC, BOOT, PLACE, GENERATION, STAMP_HEADER_WORDS };

/*
 * Differs from boot to boot, so that what an earlier guest left on a disk is never taken for what this one
 * wrote.
 */
static uint64_t boot_id;

/*
 * What a unit should hold: its generation, and in the top bits whether it is zeroes, and whether its last
 * write failed, so that nobody knows. 0 is a unit that was never written.
 */
static const uint32_t ZEROED = UINT32_C(1) << 31, UNSURE = UINT32_C(1) << 30;

static uint32_t generation_of(uint32_t expected) { return expected & ~(ZEROED | UNSURE); }

static bool is_known(uint32_t expected) { return expected && !(expected & UNSURE); }

static uint64_t first_value(uint64_t place, uint32_t generation) {
  return mix(place ^ mix(generation ^ mix(boot_id)));
}

/* `place` is unique over memory and all disks. */
static void stamp(uint64_t *unit, size_t bytes, uint64_t place, uint32_t generation) {
  uint64_t value = first_value(place, generation);
  unit[MAGIC] = STAMP_MAGIC;
  unit[BOOT] = boot_id;
  unit[PLACE] = place;
  unit[GENERATION] = generation;
  for (size_t i = STAMP_HEADER_WORDS; i < bytes / sizeof *unit; i++) unit[i] = value += STAMP_STEP;
}

static bool holds_stamp(const uint64_t *unit, size_t bytes, uint64_t place, uint32_t generation) {
  uint64_t value = first_value(place, generation);
  uint64_t difference = (unit[MAGIC] ^ STAMP_MAGIC) | (unit[BOOT] ^ boot_id) | (unit[PLACE] ^ place) |
                        (unit[GENERATION] ^ generation);
  for (size_t i = STAMP_HEADER_WORDS; i < bytes / sizeof *unit; i++)
    difference |= unit[i] ^ (value += STAMP_STEP);
  return !difference;
}

static bool holds_zeroes(const uint64_t *unit, size_t bytes) {
  uint64_t difference = 0;
  for (size_t i = 0; i < bytes / sizeof *unit; i++) difference |= unit[i];
  return !difference;
}

enum verdict { GOOD, STALE, CORRUPT };

static enum verdict judge(const uint64_t *unit, size_t bytes, uint64_t place, uint32_t expected) {
  bool good = expected & ZEROED ? holds_zeroes(unit, bytes) : holds_stamp(unit, bytes, place, expected);
  if (good) return GOOD;
  uint32_t found = (uint32_t)unit[GENERATION];
  bool older = found && found < generation_of(expected) && holds_stamp(unit, bytes, place, found);
  /* All zeroes is what an older zeroing left, or what was there before the first write. */
  return older || holds_zeroes(unit, bytes) ? STALE : CORRUPT;
}

/* ---- Memory -------------------------------------------------------------------------------------------- */

static uint64_t *memory;
static size_t memory_pages;
static uint32_t *page_expected;
static atomic_ulong pages_dirtied;
static atomic_long dirty_mb_s;

static uint64_t page_place(size_t page) { return page; }

static uint64_t *page_at(size_t page) { return memory + page * (PAGE_BYTES / sizeof *memory); }

static void rewrite_page(size_t page) {
  uint32_t generation = page_expected[page] + 1;
  stamp(page_at(page), PAGE_BYTES, page_place(page), generation);
  page_expected[page] = generation;
}

static void fill_memory(void) {
  memory_pages = (size_t)parameter("mem_mb") * ((1 << 20) / PAGE_BYTES);
  memory = reserve(memory_pages * PAGE_BYTES + 1);
  page_expected = reserve(memory_pages * sizeof *page_expected + 1);
  for (size_t page = 0; page < memory_pages; page++) rewrite_page(page);
}

static void *run_dirtier(void *unused) {
  (void)unused;
  size_t hot_pages = (size_t)parameter("mem_hot_mb") * ((1 << 20) / PAGE_BYTES);
  if (hot_pages > memory_pages) hot_pages = memory_pages;
  uint64_t random = mix(parameter("seed"));
  uint64_t at = now_ns();
  double owed = 0;
  for (;;) {
    at += TICK_MS * NS_PER_MS;
    sleep_until(at);
    /* What a stalled or throttled CPU kept us from writing is not caught up with: the rate is a ceiling. */
    if (now_ns() > at + 10 * TICK_MS * NS_PER_MS) at = now_ns();
    owed += (double)atomic_load(&dirty_mb_s) * (1 << 20) / PAGE_BYTES * TICK_MS / 1000;
    for (; owed >= 1 && hot_pages; owed--) {
      bool anywhere = !random_below(&random, 64);
      gate_enter();
      rewrite_page(random_below(&random, anywhere ? memory_pages : hot_pages));
      gate_leave();
      atomic_fetch_add(&pages_dirtied, 1);
    }
  }
  return NULL;
}

/* ---- Write statistics ---------------------------------------------------------------------------------- */

/* Latencies in microseconds go to buckets of which each is an eighth of an octave wide. */
enum { BUCKETS_PER_OCTAVE = 8, BUCKETS = 32 * BUCKETS_PER_OCTAVE };

static pthread_mutex_t statistics_lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t writes, bytes_written, write_errors, longest_write_ns;
static uint64_t latency_counts[BUCKETS];
static _Atomic uint64_t tick_gap_max_ns;

static size_t bucket_of(uint64_t us) {
  if (us < BUCKETS_PER_OCTAVE) return us;
  int octave = 63 - __builtin_clzll(us); /* >= 3 */
  size_t bucket = (octave - 2) * BUCKETS_PER_OCTAVE + ((us >> (octave - 3)) - BUCKETS_PER_OCTAVE);
  return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double bucket_end_ms(size_t bucket) {
  size_t octave = bucket / BUCKETS_PER_OCTAVE, step = bucket % BUCKETS_PER_OCTAVE;
  if (!octave) return (step + 1) / 1000.0;
  return ((BUCKETS_PER_OCTAVE + step + 1) << (octave - 1)) / 1000.0;
}

static double percentile_ms(double fraction) {
  uint64_t total = 0, seen = 0;
  for (size_t i = 0; i < BUCKETS; i++) total += latency_counts[i];
  for (size_t i = 0; i < BUCKETS; i++) {
    seen += latency_counts[i];
    if (seen && seen >= fraction * total) return bucket_end_ms(i);
  }
  return 0;
}

static void count_write(size_t bytes, uint64_t latency_ns, bool failed) {
  pthread_mutex_lock(&statistics_lock);
  writes++;
  if (failed) write_errors++;
  else bytes_written += bytes;
  latency_counts[bucket_of(latency_ns / 1000)]++;
  if (latency_ns > longest_write_ns) longest_write_ns = latency_ns;
  pthread_mutex_unlock(&statistics_lock);
}

/* ---- Disks --------------------------------------------------------------------------------------------- */

struct disk {
  char name[8];
  int fd;
  size_t blocks;
  /* Those that are dealt to the writers: not the ones that hold shared areas. */
  size_t first_stripe, hot_stripes;
  uint32_t *expected; /* of each block */
};

static struct disk disks[DISKS_MAX];
static size_t disk_count;
static atomic_long writes_s;
/* The generation of the last write to a shared area of any disk: each has one of its own. */
static _Atomic uint32_t shared_generation = 1;
/*
 * Since when each writer's write is on its way, 0 if none: a write that hangs shows in the longest one before
 * it ends.
 */
static _Atomic uint64_t write_started_ns[WRITERS_MAX];

static uint64_t block_place(const struct disk *disk, size_t block) {
  return ((uint64_t)(disk - disks) + 1) << 48 | block;
}

/*
 * Writes `count` blocks, new content or zeroes, remembers what is there now, and says whether that went well.
 * Only the blocks' owner may call this.
 */
static bool write_blocks(struct disk *disk, size_t first, size_t count, bool zeroes, char *buffer) {
  off_t offset = (off_t)first * BLOCK_BYTES;
  size_t bytes = count * BLOCK_BYTES;
  for (size_t i = 0; !zeroes && i < count; i++) {
    uint32_t generation = generation_of(disk->expected[first + i]) + 1;
    stamp((uint64_t *)(buffer + i * BLOCK_BYTES), BLOCK_BYTES, block_place(disk, first + i), generation);
  }
  bool failed;
  if (zeroes) failed = ioctl(disk->fd, BLKZEROOUT, (uint64_t[]){offset, bytes}) != 0;
  else failed = pwrite(disk->fd, buffer, bytes, offset) != (ssize_t)bytes;
  for (size_t i = 0; i < count; i++) {
    uint32_t generation = generation_of(disk->expected[first + i]) + 1;
    /* After an error either content is right; the next write to the block settles it. */
    disk->expected[first + i] = generation | (zeroes ? ZEROED : 0) | (failed ? UNSURE : 0);
  }
  return !failed;
}

static bool is_shared(const struct disk *disk, size_t block) {
  return disk->first_stripe && (block < SHARED_BLOCKS || block >= disk->blocks - SHARED_BLOCKS);
}

/* The same for blocks of a shared area, which anybody may call; there is nothing to remember. */
static bool write_shared(struct disk *disk, size_t first, size_t count, bool zeroes, char *buffer) {
  off_t offset = (off_t)first * BLOCK_BYTES;
  size_t bytes = count * BLOCK_BYTES;
  if (zeroes) return ioctl(disk->fd, BLKZEROOUT, (uint64_t[]){offset, bytes}) == 0;
  uint32_t generation = atomic_fetch_add(&shared_generation, 1) + 1;
  for (size_t i = 0; i < count; i++)
    stamp((uint64_t *)(buffer + i * BLOCK_BYTES), BLOCK_BYTES, block_place(disk, first + i), generation);
  return pwrite(disk->fd, buffer, bytes, offset) == (ssize_t)bytes;
}

static char *direct_buffer(void) {
  void *buffer = NULL;
  if (posix_memalign(&buffer, PAGE_BYTES, STRIPE_BYTES)) die("no buffer");
  return buffer;
}

static void open_disks(void) {
  size_t hot_stripes = (size_t)parameter("hot_mb") * ((1 << 20) / STRIPE_BYTES);
  for (char letter = 'a'; letter < 'a' + DISKS_MAX; letter++) {
    struct disk *disk = &disks[disk_count];
    char path[16];
    snprintf(disk->name, sizeof disk->name, "vd%c", letter);
    snprintf(path, sizeof path, "/dev/%s", disk->name);
    disk->fd = open(path, O_RDWR | O_DIRECT);
    if (disk->fd < 0 && errno == ENOENT) return;
    uint64_t bytes;
    if (disk->fd < 0 || ioctl(disk->fd, BLKGETSIZE64, &bytes)) die("%s: %s", path, strerror(errno));
    uint64_t least = parameter("shared") ? 3 * STRIPE_BYTES : STRIPE_BYTES;
    if (bytes < least) die("%s is smaller than %llu bytes", path, (unsigned long long)least);
    disk->blocks = bytes / BLOCK_BYTES;
    disk->first_stripe = parameter("shared");
    size_t end = disk->blocks - (disk->first_stripe ? SHARED_BLOCKS : 0);
    disk->hot_stripes = end / STRIPE_BLOCKS - disk->first_stripe;
    if (disk->hot_stripes > hot_stripes) disk->hot_stripes = hot_stripes;
    disk->expected = reserve(disk->blocks * sizeof *disk->expected);
    disk_count++;
  }
}

static void fill_disks(void) {
  char *buffer = direct_buffer();
  size_t fill_blocks = (size_t)parameter("fill_mb") * ((1 << 20) / BLOCK_BYTES);
  for (struct disk *disk = disks; disk < disks + disk_count; disk++) {
    size_t last = disk->blocks - STRIPE_BLOCKS;
    bool written = write_blocks(disk, last, STRIPE_BLOCKS, false, buffer);
    for (size_t first = 0; written && first < fill_blocks && first <= last; first += STRIPE_BLOCKS)
      written = write_blocks(disk, first, STRIPE_BLOCKS, false, buffer);
    if (!written) die("%s: %s", disk->name, strerror(errno));
  }
  free(buffer);
}

/* Mostly 8 KiB, aligned; a few that are smaller than a page and not aligned, large ones, and zeroes. */
static size_t choose_blocks(uint64_t *random, bool mixed, bool *zeroes) {
  uint64_t kind = mixed ? random_below(random, 100) : 100;
  *zeroes = kind < 3;
  if (kind < 6) return (64 << 10) / BLOCK_BYTES * (1 + random_below(random, 4));
  if (kind < 12) return 1 + random_below(random, 7);
  return WRITE_BYTES / BLOCK_BYTES;
}

static void *run_writer(void *argument) {
  size_t writer = (uintptr_t)argument, writers = parameter("writers");
  bool mixed = parameter("mixed");
  uint64_t random = mix(parameter("seed") + 1000 + writer);
  char *buffer = direct_buffer();
  uint64_t at = now_ns();
  for (;;) {
    long rate = atomic_load(&writes_s);
    uint64_t interval = rate ? NS_PER_S * writers / rate : 100 * NS_PER_MS;
    at += interval;
    sleep_until(at);
    /* Up to a tenth of a second is caught up with, so that late wakeups do not lower the rate. */
    if (now_ns() > at + 100 * NS_PER_MS) at = now_ns();
    if (!rate) continue;

    struct disk *disk = &disks[random_below(&random, disk_count)];
    /* Stripes are dealt in turn: this writer has number writer, writer + writers, ... */
    size_t own_stripes = (disk->hot_stripes + writers - 1 - writer) / writers;
    if (!own_stripes) continue;
    size_t stripe = disk->first_stripe + writer + writers * random_below(&random, own_stripes);
    bool zeroes;
    size_t count = choose_blocks(&random, mixed, &zeroes);
    bool shared = disk->first_stripe && !random_below(&random, 4);
    size_t room = shared ? SHARED_BLOCKS : STRIPE_BLOCKS;
    if (count > room) count = room;
    /* Multiples of 8 KiB lie at such multiples, anything else at any block; in a shared area all do. */
    size_t align = shared || count % (WRITE_BYTES / BLOCK_BYTES) ? 1 : WRITE_BYTES / BLOCK_BYTES;
    size_t places = (room - count) / align + 1;
    size_t first = align * random_below(&random, places);
    if (!shared) first += stripe * STRIPE_BLOCKS;
    else if (random_below(&random, 2)) first += disk->blocks - SHARED_BLOCKS;

    gate_enter();
    uint64_t started = now_ns();
    atomic_store(&write_started_ns[writer], started);
    bool written = (shared ? write_shared : write_blocks)(disk, first, count, zeroes, buffer);
    count_write(count * BLOCK_BYTES, now_ns() - started, !written);
    atomic_store(&write_started_ns[writer], 0);
    gate_leave();
  }
  return NULL;
}

/* ---- Ticker -------------------------------------------------------------------------------------------- */

static void *run_ticker(void *unused) {
  (void)unused;
  bool has_port = !ioperm(DEBUG_PORT, 1, 1);
  uint64_t last = now_ns();
  for (;;) {
    sleep_until(last + TICK_MS * NS_PER_MS);
    uint64_t now = now_ns();
    if (now - last > atomic_load(&tick_gap_max_ns)) atomic_store(&tick_gap_max_ns, now - last);
    last = now;
    if (has_port) outb('.', DEBUG_PORT);
  }
  return NULL;
}

/* ---- Verification -------------------------------------------------------------------------------------- */

struct findings {
  size_t units, bad, stale;
  char first_bad[96];
};

static void find(struct findings *findings, const char *what, size_t number, const uint64_t *unit,
                 size_t bytes, uint64_t place, uint32_t expected) {
  findings->units++;
  enum verdict verdict = judge(unit, bytes, place, expected);
  if (verdict == GOOD) return;
  if (!findings->bad++)
    snprintf(findings->first_bad, sizeof findings->first_bad, "%s %zu: %s, expected %s %u, found %llu", what,
             number, verdict == STALE ? "stale" : "corrupt", expected & ZEROED ? "zeroes" : "generation",
             generation_of(expected), (unsigned long long)unit[GENERATION]);
  if (verdict == STALE) findings->stale++;
}

static void verify_memory(struct findings *findings) {
  for (size_t page = 0; page < memory_pages; page++)
    find(findings, "memory", page, page_at(page), PAGE_BYTES, page_place(page), page_expected[page]);
}

/* A block of a shared area should hold zeroes or any one of the writes so far. */
static uint32_t expected_of(const struct disk *disk, size_t block, const uint64_t *unit) {
  if (!is_shared(disk, block)) return disk->expected[block];
  if (holds_zeroes(unit, BLOCK_BYTES)) return ZEROED;
  uint64_t found = unit[GENERATION], last = atomic_load(&shared_generation);
  return found && found <= last ? found : last;
}

static void verify_disk(struct findings *findings, const struct disk *disk, char *buffer) {
  for (size_t first = 0; first < disk->blocks; first += STRIPE_BLOCKS) {
    size_t count = disk->blocks - first < STRIPE_BLOCKS ? disk->blocks - first : STRIPE_BLOCKS, known = 0;
    for (size_t i = 0; i < count; i++) known += is_known(disk->expected[first + i]);
    if (!known) continue;
    ssize_t bytes = count * BLOCK_BYTES;
    bool readable = pread(disk->fd, buffer, bytes, (off_t)first * BLOCK_BYTES) == bytes;
    /* What cannot be read is as bad as what is wrong. */
    if (!readable) memset(buffer, 0xff, bytes);
    for (size_t i = 0; i < count; i++) {
      const uint64_t *unit = (uint64_t *)(buffer + i * BLOCK_BYTES);
      if (is_known(disk->expected[first + i]))
        find(findings, disk->name, first + i, unit, BLOCK_BYTES, block_place(disk, first + i),
             expected_of(disk, first + i, unit));
    }
  }
}

/* ---- Commands ------------------------------------------------------------------------------------------ */

static FILE *line_out;

static void reply(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void reply(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vfprintf(line_out, format, arguments);
  va_end(arguments);
  fputc('\n', line_out);
  fflush(line_out);
}

static void command_stats(void) {
  pthread_mutex_lock(&statistics_lock);
  uint64_t longest = longest_write_ns, now = now_ns();
  for (size_t i = 0; i < WRITERS_MAX; i++) {
    uint64_t started = atomic_load(&write_started_ns[i]);
    if (started && started < now && now - started > longest) longest = now - started;
  }
  reply("{\"writes\":%llu,\"bytesWritten\":%llu,\"writeErrors\":%llu,\"longestMs\":%.3f,\"p50Ms\":%.3f,"
        "\"p99Ms\":%.3f,\"pagesDirtied\":%lu,\"tickGapMaxMs\":%.3f,\"uptimeMs\":%llu,\"clockBackNs\":%llu}",
        (unsigned long long)writes, (unsigned long long)bytes_written, (unsigned long long)write_errors,
        (double)longest / NS_PER_MS, percentile_ms(0.5), percentile_ms(0.99), atomic_load(&pages_dirtied),
        (double)atomic_load(&tick_gap_max_ns) / NS_PER_MS, (unsigned long long)(now / NS_PER_MS),
        (unsigned long long)atomic_load(&clock_back_ns));
  pthread_mutex_unlock(&statistics_lock);
}

static void command_reset(void) {
  pthread_mutex_lock(&statistics_lock);
  longest_write_ns = 0;
  memset(latency_counts, 0, sizeof latency_counts);
  pthread_mutex_unlock(&statistics_lock);
  atomic_store(&tick_gap_max_ns, 0);
  reply("ok");
}

static void command_verify(void) {
  static char *buffer;
  if (!buffer) buffer = direct_buffer();
  struct findings pages = {0}, blocks = {0};
  uint64_t started = now_ns();
  gate_close();
  verify_memory(&pages);
  for (size_t i = 0; i < disk_count; i++) verify_disk(&blocks, &disks[i], buffer);
  gate_open();
  unsigned long long took_ms = (now_ns() - started) / NS_PER_MS;
  reply("{\"pages\":%zu,\"badPages\":%zu,\"stalePages\":%zu,\"blocks\":%zu,\"badBlocks\":%zu,"
        "\"staleBlocks\":%zu,\"firstBad\":\"%s\",\"tookMs\":%llu}",
        pages.units, pages.bad, pages.stale, blocks.units, blocks.bad, blocks.stale,
        pages.bad ? pages.first_bad : blocks.first_bad, took_ms);
}

static void command_pause(bool wanted) {
  static bool paused;
  if (wanted && !paused) gate_close();
  if (!wanted && paused) gate_open();
  paused = wanted;
  reply("ok");
}

static void serve(char *line) {
  long new_writes_s, new_dirty_mb_s;
  if (!strcmp(line, "ping")) reply("pong");
  else if (!strcmp(line, "stats")) command_stats();
  else if (!strcmp(line, "reset")) command_reset();
  else if (!strcmp(line, "verify")) command_verify();
  else if (!strcmp(line, "pause")) command_pause(true);
  else if (!strcmp(line, "resume")) command_pause(false);
  else if (sscanf(line, "load %ld %ld", &new_writes_s, &new_dirty_mb_s) == 2 && new_writes_s >= 0 &&
           new_dirty_mb_s >= 0) {
    atomic_store(&writes_s, new_writes_s);
    atomic_store(&dirty_mb_s, new_dirty_mb_s);
    reply("ok");
  } else if (!strcmp(line, "poweroff")) {
    reply("ok");
    tcdrain(fileno(line_out));
    reboot(RB_POWER_OFF);
  } else reply("error unknown command");
}

static FILE *open_line(void) {
  int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY);
  struct termios mode;
  if (fd < 0 || tcgetattr(fd, &mode)) die("/dev/ttyS0: %s", strerror(errno));
  cfmakeraw(&mode);
  mode.c_cflag |= CLOCAL | CREAD;
  if (tcsetattr(fd, TCSANOW, &mode)) die("/dev/ttyS0: %s", strerror(errno));
  line_out = fdopen(fd, "w");
  FILE *line_in = fdopen(dup(fd), "r");
  if (!line_in || !line_out) die("no streams");
  return line_in;
}

static void announce(void) {
  char list[512] = "";
  size_t length = 0;
  for (size_t i = 0; i < disk_count; i++)
    length += snprintf(list + length, sizeof list - length, "%s{\"name\":\"%s\",\"blocks\":%zu}",
                       i ? "," : "", disks[i].name, disks[i].blocks);
  reply("ready {\"pages\":%zu,\"blockBytes\":%d,\"disks\":[%s],\"uptimeMs\":%llu}", memory_pages,
        BLOCK_BYTES, list, (unsigned long long)(now_ns() / NS_PER_MS));
}

int main(void) {
  setvbuf(stderr, NULL, _IOLBF, 0);
  read_parameters();
  if (parameter("writers") > WRITERS_MAX) die("more than %d writers", WRITERS_MAX);
  atomic_store(&writes_s, parameter("writes_s"));
  atomic_store(&dirty_mb_s, parameter("dirty_mb_s"));

  struct timespec today;
  clock_gettime(CLOCK_REALTIME, &today);
  boot_id = mix(today.tv_sec * NS_PER_S + today.tv_nsec);

  FILE *line_in = open_line();
  fill_memory();
  open_disks();
  fill_disks();

  start_thread(run_ticker, NULL);
  start_thread(run_dirtier, NULL);
  for (long writer = 0; disk_count && writer < parameter("writers"); writer++)
    start_thread(run_writer, (void *)(uintptr_t)writer);
  announce();

  char line[128];
  while (fgets(line, sizeof line, line_in)) {
    line[strcspn(line, "\r\n")] = 0;
    if (*line) serve(line);
  }
  die("ttyS0 ended");
}
