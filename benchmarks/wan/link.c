/*
 * An emulated wide-area link between two network namespaces: reads IP packets from a TUN device in one and
 * writes them to its twin in the other, later. Each path is a pair of devices, `path<n>` in both namespaces.
 *
 *     link <namespace a> <namespace b> <paths> <seed>
 *
 * A packet passes, per path and direction:
 *
 *     cut?  -->  drop-tail queue  -->  serialization at the rate  -->  loss?  -->  constant delay  -->  cut?
 *
 * The kernel hands over the packets of a TCP connection as super-packets of up to 64 KiB, as it does to a
 * network card (segmentation offload): that is what makes gigabits cheap. The link counts, charges and drops
 * their segments, each a packet of its own on a real wire, one by one, and passes on what is left in runs of
 * neighbours, each due when its last segment is. A run takes at most RUN_NS to serialize, which bounds how
 * late its first segment comes.
 *
 * Rates count the bytes of IP packets. A rate that changes does not touch what is queued already.
 *
 * One thread, which sleeps until a packet comes or is due. Commands come on standard input, a line each, and
 * are answered with a line each; the end of the input ends the link, and with it the devices:
 *
 *     path <n> [ab|ba] cut | mend
 *     path <n> [ab|ba] rate <Mbit/s> | delay <ms> | loss <percent> | queue <ms> | queue-bytes <bytes>
 *     stats      one line of JSON
 *     quit
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/virtio_net.h>
#include <malloc.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { PATHS_MAX = 16, PACKET_MAX = 65536 + 256, BATCH = 16 };
/* How long a run of segments takes to serialize, at most. */
static const int64_t RUN_NS = 250000;
/* A packet that is due this soon is let go at once: a sleep would be no more exact. */
static const int64_t EARLY_NS = 15000;

typedef struct packet {
  struct packet *next;
  int64_t due;
  int segments;
  size_t length;
  uint8_t bytes[]; /* virtio_net_hdr, then the IP packet */
} packet;

typedef struct direction {
  int in, out; /* devices */
  double rate; /* bits a nanosecond */
  int64_t delay, queue;
  double queue_bytes; /* instead of `queue`, if not 0 */
  uint64_t loss;      /* of 2^32 */
  int cut;
  uint64_t chance;
  int64_t free_at, last_due;
  packet *head, **tail;
  uint64_t packets, bytes, dropped_queue, dropped_loss, dropped_cut, refused;
} direction;

static direction directions[2 * PATHS_MAX]; /* path n: 2n from a to b, 2n + 1 from b to a */
static int count;
static int64_t late_max, late_sum, late_count;

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void fail(const char *what) {
  fprintf(stderr, "link: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int open_device(int path) {
  struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI | IFF_VNET_HDR};
  snprintf(request.ifr_name, IFNAMSIZ, "path%d", path);
  int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fd < 0) fail("/dev/net/tun");
  if (ioctl(fd, TUNSETIFF, &request) < 0) fail("TUNSETIFF");
  if (ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) < 0) fail("TUNSETOFFLOAD");
  return fd;
}

static void enter_namespace(const char *name) {
  char file[256];
  snprintf(file, sizeof file, "/run/netns/%s", name);
  int fd = open(file, O_RDONLY | O_CLOEXEC);
  if (fd < 0 || setns(fd, CLONE_NEWNET) < 0) fail(file);
  close(fd);
}

/* xorshift64*: the same seed loses the same packets of the sequence that comes. */
static int is_lost(direction *d) {
  d->chance ^= d->chance >> 12;
  d->chance ^= d->chance << 25;
  d->chance ^= d->chance >> 27;
  return (d->chance * 0x2545F4914F6CDD1DULL) >> 32 < d->loss;
}

static uint16_t fold(uint32_t sum) {
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  return sum;
}

/* Makes the copy of a super-packet's header say what a run of its segments holds. */
static void rewrite(uint8_t *bytes, size_t length, size_t header, int first, int last, int of) {
  struct virtio_net_hdr *net = (void *)bytes;
  struct iphdr *ip = (void *)(net + 1);
  struct tcphdr *tcp = (void *)((uint8_t *)ip + net->csum_start);
  uint16_t was = ntohs(ip->tot_len) - net->csum_start, is = length - net->csum_start;
  ip->tot_len = htons(length);
  ip->id = htons(ntohs(ip->id) + first);
  ip->check = 0;
  uint32_t sum = 0;
  for (int i = 0; i < ip->ihl * 2; i++) sum += ((uint16_t *)ip)[i];
  ip->check = ~fold(sum);
  tcp->seq = htonl(ntohl(tcp->seq) + (uint32_t)first * net->gso_size);
  if (first > 0) tcp->cwr = 0;
  if (last < of) tcp->fin = tcp->psh = 0;
  /* What the card would complete: the sum of the pseudo header, which the length is a part of. */
  tcp->check = htons(fold((uint32_t)ntohs(tcp->check) + is + (uint16_t)~was));
  net->hdr_len = header;
  if (last - first == 1) net->gso_type = VIRTIO_NET_HDR_GSO_NONE, net->gso_size = 0;
}

/* Sends segments [first, last) of the `of` that `bytes` holds on their way. */
static void enqueue(direction *d, const uint8_t *bytes, size_t length, size_t header, int first, int last,
                    int of) {
  const struct virtio_net_hdr *net = (const void *)bytes;
  size_t from = header + (size_t)first * net->gso_size;
  size_t to = last == of ? length : header + (size_t)last * net->gso_size;
  size_t size = of == 1 ? length : header + to - from;
  packet *p = malloc(sizeof *p + sizeof *net + size);
  if (p == NULL) fail("malloc");
  p->next = NULL;
  p->segments = last - first;
  p->length = sizeof *net + size;
  p->due = d->free_at + d->delay;
  /* A shorter delay overtakes nothing. */
  if (p->due < d->last_due) p->due = d->last_due;
  d->last_due = p->due;
  if (last - first == of) {
    memcpy(p->bytes, bytes, p->length);
  } else {
    memcpy(p->bytes, bytes, sizeof *net + header);
    memcpy(p->bytes + sizeof *net + header, bytes + sizeof *net + from, to - from);
    rewrite(p->bytes, size, header, first, last, of);
  }
  *d->tail = p;
  d->tail = &p->next;
}

/* A packet that came in, with its virtio_net_hdr in front; `length` is without that. */
static void accept_packet(direction *d, const uint8_t *bytes, size_t length, int64_t now) {
  const struct virtio_net_hdr *net = (const void *)bytes;
  size_t header = 0, segment = length;
  int of = 1;
  if ((net->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4 && net->gso_size > 0) {
    const struct tcphdr *tcp = (const void *)(bytes + sizeof *net + net->csum_start);
    header = net->csum_start + tcp->doff * 4;
    segment = net->gso_size;
    if (length > header) of = (length - header + segment - 1) / segment;
  }
  if (of == 1) header = 0, segment = length;
  int first = 0; /* of the run that is being gathered */
  int64_t taken = 0;
  for (int i = 0; i < of; i++) {
    size_t size = header + (i == of - 1 ? length - header - i * segment : segment);
    int64_t start = d->free_at > now ? d->free_at : now;
    double queue = d->queue_bytes > 0 ? d->queue_bytes * 8 / d->rate : d->queue;
    int64_t free_at = start + (int64_t)(size * 8 / d->rate);
    /* What has begun to be sent is not in the queue. */
    uint64_t *dropped = d->cut ? &d->dropped_cut : start - now > queue ? &d->dropped_queue : NULL;
    if (dropped == NULL && is_lost(d)) dropped = &d->dropped_loss;
    if (dropped != NULL) {
      if (i > first) enqueue(d, bytes, length, header, first, i, of);
      first = i + 1;
      taken = 0;
      ++*dropped;
      /* The wire carries what it loses. */
      if (dropped == &d->dropped_loss) d->free_at = free_at;
      continue;
    }
    if (i > first && taken + (free_at - start) > RUN_NS) {
      enqueue(d, bytes, length, header, first, i, of);
      first = i;
      taken = 0;
    }
    taken += free_at - start;
    d->free_at = free_at;
  }
  if (of > first) enqueue(d, bytes, length, header, first, of, of);
}

/* Hands over what is due. */
static void release(direction *d, int64_t now) {
  while (d->head != NULL && d->head->due <= now + EARLY_NS) {
    packet *p = d->head;
    d->head = p->next;
    if (d->head == NULL) d->tail = &d->head;
    if (d->cut) {
      d->dropped_cut += p->segments;
    } else if (write(d->out, p->bytes, p->length) < 0) {
      d->refused += p->segments;
    } else {
      int64_t late = now > p->due ? now - p->due : 0;
      if (late > late_max) late_max = late;
      late_sum += late;
      late_count++;
      d->packets += p->segments;
      d->bytes += p->length - sizeof(struct virtio_net_hdr);
    }
    free(p);
  }
}

/* Returns whether there may be more. */
static int receive(direction *d) {
  static uint8_t buffer[PACKET_MAX];
  for (int i = 0; i < BATCH; i++) {
    ssize_t length = read(d->in, buffer, sizeof buffer);
    if (length < 0) {
      if (errno == EAGAIN || errno == EINTR || errno == EIO) return 0;
      fail("read");
    }
    length -= sizeof(struct virtio_net_hdr);
    if (length > 0) accept_packet(d, buffer, length, now_ns());
  }
  return 1;
}

static void print_stats(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec;
  cpu += (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  printf("{\"cpuSeconds\":%.3f,\"lateUs\":{\"mean\":%.1f,\"max\":%.1f},\"paths\":[",
         cpu, late_count > 0 ? late_sum / 1e3 / late_count : 0, late_max / 1e3);
  for (int i = 0; i < count; i++) {
    const direction *d = &directions[i];
    printf("%s\"%s\":{\"packets\":%lu,\"bytes\":%lu,\"droppedByQueue\":%lu,\"droppedByLoss\":%lu,"
           "\"droppedByCut\":%lu,\"refused\":%lu}%s",
           i % 2 ? "," : i ? ",{" : "{", i % 2 ? "ba" : "ab", d->packets, d->bytes, d->dropped_queue,
           d->dropped_loss, d->dropped_cut, d->refused, i % 2 ? "}" : "");
  }
  printf("]}\n");
  late_max = late_sum = late_count = 0;
}

static int set(direction *d, const char *key, double value, int has_value) {
  if (!has_value) {
    if (strcmp(key, "cut") == 0) return d->cut = 1;
    if (strcmp(key, "mend") == 0) return d->cut = 0, 1;
    return 0;
  }
  if (!(value >= 0)) return 0;
  if (strcmp(key, "rate") == 0 && value > 0) return d->rate = value / 1e3, 1;
  if (strcmp(key, "delay") == 0) return d->delay = value * 1e6, 1;
  if (strcmp(key, "loss") == 0 && value <= 100) return d->loss = value / 100 * 4294967296.0, 1;
  if (strcmp(key, "queue") == 0) return d->queue = value * 1e6, d->queue_bytes = 0, 1;
  if (strcmp(key, "queue-bytes") == 0 && value > 0) return d->queue_bytes = value, 1;
  return 0;
}

static void command(const char *line) {
  char words[4][16] = {"", "", "", ""};
  int path, used = 0;
  if (strcmp(line, "quit") == 0) {
    printf("ok\n");
    exit(0);
  }
  if (strcmp(line, "stats") == 0) return print_stats();
  if (sscanf(line, "path %d %n", &path, &used) == 1 && used > 0 && path >= 0 && path < count / 2) {
    sscanf(line + used, "%15s %15s %15s", words[0], words[1], words[2]);
    int only = strcmp(words[0], "ab") == 0 ? 0 : strcmp(words[0], "ba") == 0 ? 1 : -1;
    const char *key = words[only >= 0], *text = words[(only >= 0) + 1];
    char *end;
    double value = strtod(text, &end);
    int done = *end == '\0';
    for (int i = 0; i < 2 && done; i++)
      if (only < 0 || only == i) done = set(&directions[2 * path + i], key, value, *text != '\0');
    if (done) {
      printf("ok\n");
      return;
    }
  }
  printf("error: not understood: %s\n", line);
}

static void read_commands(void) {
  static char buffer[4096];
  static size_t length;
  ssize_t got = read(STDIN_FILENO, buffer + length, sizeof buffer - 1 - length);
  if (got <= 0) exit(0);
  length += got;
  buffer[length] = '\0';
  char *line = buffer, *end;
  while ((end = strchr(line, '\n')) != NULL) {
    *end = '\0';
    command(line);
    line = end + 1;
  }
  length -= line - buffer;
  memmove(buffer, line, length);
}

int main(int argc, char **argv) {
  int paths = argc == 5 ? atoi(argv[3]) : 0;
  if (paths < 1 || paths > PATHS_MAX) {
    fprintf(stderr, "usage: link <namespace a> <namespace b> <paths: 1 to %d> <seed>\n", PATHS_MAX);
    return 2;
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  prctl(PR_SET_TIMERSLACK, 1);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  /* Others that are busy should not be seen in the delay. It sleeps between packets, so it starves nobody. */
  struct sched_param priority = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_RR, &priority) < 0) setpriority(PRIO_PROCESS, 0, -20);

  count = 2 * paths;
  for (int end = 0; end < 2; end++) {
    enter_namespace(argv[1 + end]);
    for (int path = 0; path < paths; path++)
      directions[2 * path + end].in = directions[2 * path + 1 - end].out = open_device(path);
  }
  struct pollfd polls[2 * PATHS_MAX + 1];
  for (int i = 0; i < count; i++) {
    direction *d = &directions[i];
    d->rate = 1;
    d->queue = 50000000;
    d->tail = &d->head;
    d->chance = (strtoull(argv[4], NULL, 10) + 1) * 0x9E3779B97F4A7C15ULL ^ (uint64_t)(i + 1) << 40;
    polls[i] = (struct pollfd){.fd = d->in, .events = POLLIN};
  }
  polls[count] = (struct pollfd){.fd = STDIN_FILENO, .events = POLLIN};
  printf("ready\n");

  for (;;) {
    int more = 0;
    int64_t next = INT64_MAX;
    for (int i = 0; i < count; i++) {
      if (polls[i].revents != 0) more |= receive(&directions[i]);
      release(&directions[i], now_ns());
    }
    for (int i = 0; i < count; i++)
      if (directions[i].head != NULL && directions[i].head->due < next) next = directions[i].head->due;
    int64_t wait = next == INT64_MAX ? 1000000000 : next - EARLY_NS - now_ns();
    if (more || wait < 0) wait = 0;
    struct timespec timeout = {wait / 1000000000, wait % 1000000000};
    if (ppoll(polls, count + 1, &timeout, NULL) < 0 && errno != EINTR) fail("ppoll");
    if (polls[count].revents != 0) read_commands();
  }
}
