/** mr3d bench: how long backends take for the same prefill and decode steps at full width, beside what the machine can do. */
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../ref/model/generated_weights.h"
#include "backend.h"
#include "command.h"
#include "file.h"
#include "frames.h"
#include "mr3d/random.h"
#include "mr3d/safetensors.h"
#include "parallel.h"
#include "scratch.h"

/* Qwen2-0.5B's widths. */
enum { HIDDEN = 896, INTERMEDIATE = 4864, H = 14, G = 2, D = 64, MOST = 16 };

typedef struct sizes {
  int64_t layers, tokens, points;
} sizes;

typedef struct timing {
  sizes of;
  double prefill, decode; /* seconds, the shortest; decode INFINITY: none was asked */
} timing;

typedef struct subject {
  char *spec;
  mr3d_tier tier;
  char name[96];
  char version[64];
  timing timings[3 * MOST]; /* of the bench's works */
  double attention[MOST];   /* seconds of the operator alone, for each number of tokens; INFINITY: not offered */
  double peak; /* largest resident memory, bytes */
  double reading; /* seconds in which all threads read its weights once: no decode step is faster without a cache that holds them */
} subject;

typedef struct bench {
  const char *layers_text, *tokens_text, *points_text, *markdown, *svg;
  int64_t layers[MOST], tokens[MOST], points[MOST];
  int n_layers, n_tokens, n_points;
  int64_t vocabulary, steps, repeat, rounds, threads;
  int n_works;
  sizes works[3 * MOST]; /* the largest first */
  int n_subjects;
  subject *subjects;
  double machine_peak; /* floating-point operations a second on all threads, product and sum apart, binary64 */
} bench;

/* ---- the work ---- */

static double layer_flops(int64_t q, int64_t keys_seen) {
  const double products = (double)(2 * H * D + 2 * G * D) * HIDDEN + 3.0 * INTERMEDIATE * HIDDEN;
  return 2 * (double)q * products + 4.0 * H * D * (double)keys_seen;
}

static double prefill_flops(const bench *b, sizes s) {
  return (double)s.layers * layer_flops(s.tokens, s.tokens * (s.tokens + 1) / 2) + 2.0 * (double)b->vocabulary * HIDDEN;
}

static void config_text(const bench *b, int64_t layers, char text[512]) {
  snprintf(text, 512,
           "{\"hidden_size\":%d,\"intermediate_size\":%d,\"num_attention_heads\":%d,\"num_key_value_heads\":%d,\"head_dim\":%d,\"num_hidden_layers\":%" PRId64
           ",\"vocab_size\":%" PRId64 ",\"rope_theta\":1000000,\"rms_norm_eps\":1e-6,\"tie_word_embeddings\":true}",
           HIDDEN, INTERMEDIATE, H, G, D, layers, b->vocabulary);
}

/* One file for all: fewer layers ignore the rest. */
static mr3d_status write_weights(const bench *b, mr3d_tier tier, const char *folder, char path[4096], mr3d_error *error) {
  snprintf(path, 4096, "%s/bench-%s.safetensors", folder, mr3d_tier_name(tier));
  if (access(path, R_OK) == 0) return MR3D_OK;
  char text[512];
  mr3d_config config;
  mr3d_drawn_tensors drawn = {0};
  config_text(b, b->works[0].layers, text);
  mr3d_status status = mr3d_config_parse(text, &config, error);
  if (status == MR3D_OK) status = mr3d_generated_model(&(mr3d_generated_name){0, "bench"}, &config, tier, &drawn, error);
  mr3d_safetensors_writer *file = NULL;
  if (status == MR3D_OK) status = mr3d_safetensors_writer_open(path, &file, error);
  for (int i = 0; status == MR3D_OK && i < mr3d_bundle_count(drawn.tensors); i++) {
    const mr3d_tensor *t = mr3d_bundle_at(drawn.tensors, i);
    mr3d_bundle *one = mr3d_bundle_new();
    mr3d_tensor *values = mr3d_bundle_add(one, t->name, t->dtype, t->rank, t->shape);
    mr3d_random_draw(&drawn.drawings[i].draw, drawn.drawings[i].stream, values);
    mr3d_safetensors_writer_add(file, NULL, values);
    mr3d_bundle_free(&one);
  }
  if (file) status = mr3d_safetensors_writer_close(&file, true, error);
  mr3d_drawn_tensors_free(&drawn);
  return status;
}

static mr3d_bundle *new_request(const char *op, mr3d_tier tier, const char *config) {
  mr3d_bundle *r = mr3d_bundle_new();
  mr3d_bundle_set(r, "op", op);
  mr3d_bundle_set(r, "tier", mr3d_tier_name(tier));
  mr3d_bundle_set(r, "config", config);
  mr3d_bundle_set(r, "session", "bench");
  return r;
}

/* A scene's points stand in the middle of the text. */
static mr3d_bundle *prefill_request(const char *config, mr3d_tier tier, sizes s, const char *weights) {
  mr3d_bundle *r = new_request("prefill", tier, config);
  mr3d_bundle_set(r, "weights", weights);
  mr3d_bundle_set(r, "logits_to_keep", "1");
  mr3d_tensor *embeds = mr3d_bundle_add(r, "inputs_embeds", mr3d_tier_storage(tier), 3, (int64_t[]){1, s.tokens, HIDDEN});
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 0.1}, mr3d_stream_named(0, "bench/inputs_embeds"), embeds);
  int64_t *mask = mr3d_bundle_add(r, "attention_mask", MR3D_I64, 2, (int64_t[]){1, s.tokens})->data;
  for (int64_t i = 0; i < s.tokens; i++) mask[i] = 1;
  if (s.points == 0) return r;
  uint8_t *marks = mr3d_bundle_add(r, "point_token_mask", MR3D_BOOL, 2, (int64_t[]){1, s.tokens})->data;
  for (int64_t i = 0; i < s.points; i++) marks[(s.tokens - s.points) / 2 + i] = 1;
  mr3d_tensor *coords = mr3d_bundle_add(r, "point_coords", MR3D_I64, 2, (int64_t[]){s.points, 3});
  mr3d_random_draw(&(mr3d_draw){.dist = MR3D_INT, .lo = 0, .hi = 79, .scale = 1}, mr3d_stream_named(0, "bench/point_coords"), coords);
  return r;
}

/* ---- asking ---- */

static mr3d_status ask(mr3d_backend *backend, const subject *who, mr3d_bundle *request, double *seconds, mr3d_error *error) {
  mr3d_reply reply;
  mr3d_backend_ask(backend, request, 3600, &reply);
  *seconds = reply.seconds;
  const mr3d_status status = reply.kind == MR3D_REPLY_ANSWER ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "%s: %s: %.900s", who->spec, mr3d_bundle_get(request, "op"), reply.message);
  mr3d_reply_clear(&reply);
  mr3d_bundle_free(&request);
  return status;
}

/** Sums the words of the weights file, which a decode step must read, too: the second time, when its pages are mapped. */
static mr3d_status measure_reading(const char *path, int threads, double *shortest, mr3d_error *error) {
  void *bytes;
  size_t size;
  uint64_t sink = 0;
  MR3D_TRY(mr3d_map(path, &bytes, &size, error));
  const uint64_t *words = bytes;
  double seconds = NAN;
  for (int k = 0; k < 2; k++) {
    const double start = mr3d_now();
#pragma omp parallel for num_threads(threads) reduction(+ : sink)
    for (size_t i = 0; i < size / 8; i++) sink += words[i];
    seconds = mr3d_now() - start;
  }
  *shortest = fmin(*shortest, seconds);
  mr3d_unmap(bytes, size);
  return sink ? MR3D_OK : mr3d_fail(error, MR3D_INVALID, "%s holds nothing but zeros", path);
}

/** Asks for a prefill and the steps behind it, and keeps the shortest: what another program on the machine took is no property of a backend. */
static mr3d_status time_model(const bench *b, mr3d_backend *backend, const subject *who, timing *t, const char *weights, mr3d_error *error) {
  double seconds;
  char config[512];
  config_text(b, t->of.layers, config);
  MR3D_TRY(ask(backend, who, prefill_request(config, who->tier, t->of, weights), &seconds, error));
  t->prefill = fmin(t->prefill, seconds);
  for (int64_t step = 0; step < b->steps; step++) {
    mr3d_bundle *r = new_request("decode", who->tier, "{}");
    *(int64_t *)mr3d_bundle_add(r, "input_ids", MR3D_I64, 2, (int64_t[]){1, 1})->data = step % b->vocabulary;
    MR3D_TRY(ask(backend, who, r, &seconds, error));
    t->decode = fmin(t->decode, seconds);
  }
  return ask(backend, who, new_request("drop_session", who->tier, "{}"), &seconds, error);
}

/** Asks for causal attention alone among so many tokens, twice `repeat` times, for it is short. */
static mr3d_status time_attention(const bench *b, mr3d_backend *backend, const subject *who, int64_t tokens, double *shortest, mr3d_error *error) {
  static const char *const names[] = {"query", "key", "value"};
  double seconds;
  for (int64_t k = 0; k < 2 * b->repeat; k++) {
    mr3d_bundle *r = new_request("attention", who->tier, "{}");
    for (int i = 0; i < 3; i++)
      mr3d_random_draw(&(mr3d_draw){.dist = MR3D_NORMAL, .scale = 1}, mr3d_stream_named(0, names[i]),
                       mr3d_bundle_add(r, names[i], mr3d_tier_storage(who->tier), 4, (int64_t[]){1, i == 0 ? H : G, tokens, D}));
    uint8_t *visible = mr3d_bundle_add(r, "visible", MR3D_BOOL, 3, (int64_t[]){1, tokens, tokens})->data;
    for (int64_t i = 0; i < tokens; i++)
      for (int64_t j = 0; j < tokens; j++) visible[i * tokens + j] = j <= i;
    MR3D_TRY(ask(backend, who, r, &seconds, error));
    *shortest = fmin(*shortest, seconds);
  }
  return MR3D_OK;
}

/* ---- memory, from /proc ---- */

static bool read_status(long pid, long *parent, double *peak) {
  char path[64], line[256];
  snprintf(path, sizeof path, "/proc/%ld/status", pid);
  FILE *file = fopen(path, "r");
  *parent = 0, *peak = 0;
  if (!file) return false;
  while (fgets(line, sizeof line, file)) {
    double kib;
    sscanf(line, "PPid: %ld", parent);
    if (sscanf(line, "VmHWM: %lf", &kib) == 1) *peak = 1024 * kib;
  }
  fclose(file);
  return true;
}

static bool descends(long pid) {
  long parent = pid;
  double ignored;
  for (int depth = 0; depth < 16 && parent > 1; depth++) {
    if (!read_status(parent, &parent, &ignored)) return false;
    if (parent == getpid()) return true;
  }
  return false;
}

/** The largest resident memory that a process of the backend's has had; of a built-in one this process's, since it was last forgotten. */
static double peak_memory(const subject *who) {
  long parent;
  double largest = 0, peak;
  if (strncmp(who->spec, "builtin:", 8) == 0) return read_status(getpid(), &parent, &largest) ? largest : NAN;
  DIR *all = opendir("/proc");
  for (struct dirent *entry; all && (entry = readdir(all));) {
    const long pid = atol(entry->d_name);
    if (pid > 0 && descends(pid) && read_status(pid, &parent, &peak) && peak > largest) largest = peak;
  }
  if (all) closedir(all);
  return largest;
}

static void forget_peak(void) {
#ifdef __GLIBC__
  malloc_trim(0); /* what writing weights took */
#endif
  const int fd = open("/proc/self/clear_refs", O_WRONLY);
  if (fd >= 0 && write(fd, "5", 1) != 1) fprintf(stderr, "mr3d: the peak of memory cannot be reset: builtin:'s includes what came before\n");
  if (fd >= 0) close(fd);
}

/* ---- the machine ---- */

#if defined(__x86_64__)
__attribute__((target("avx2")))
#endif
static double multiply_and_add(int64_t turns) {
  typedef double vector __attribute__((vector_size(32)));
  enum { CHAINS = 10 };
  vector sum[CHAINS], factor = {1 - 1e-9, 1 - 1e-9, 1 - 1e-9, 1 - 1e-9};
  for (int c = 0; c < CHAINS; c++) sum[c] = factor;
  for (int64_t i = 0; i < turns; i++)
    _Pragma("GCC unroll 10") for (int c = 0; c < CHAINS; c++) sum[c] = sum[c] * factor + factor;
  double total = 0;
  for (int c = 0; c < CHAINS; c++) total += sum[c][0];
  return total;
}
#define FLOPS_A_TURN (10.0 * 4 * 2)

static double measure_peak(int threads) {
  enum { TURNS = 20000000 };
  double fastest = INFINITY, sink = 0;
  for (int k = 0; k < 3; k++) {
    const double start = mr3d_now();
#pragma omp parallel for num_threads(threads) reduction(+ : sink)
    for (int t = 0; t < threads; t++) sink += multiply_and_add(TURNS);
    fastest = fmin(fastest, mr3d_now() - start);
  }
  return sink > 0 ? threads * TURNS * FLOPS_A_TURN / fastest : NAN;
}

/* ---- what is printed ---- */

/* A straight line through points that have weights. */
typedef struct fit {
  double n, x, y, xx, xy;
} fit;

static void fit_add(fit *f, double x, double y, double weight) {
  f->n += weight, f->x += weight * x, f->y += weight * y, f->xx += weight * x * x, f->xy += weight * x * y;
}

/** NAN where there are no two points that differ by more than rounding. */
static double fit_slope(const fit *f) {
  const double spread = f->n * f->xx - f->x * f->x;
  return spread > 1e-12 * f->n * f->xx ? (f->n * f->xy - f->x * f->y) / spread : NAN;
}

static double fit_intercept(const fit *f) { return (f->y - fit_slope(f) * f->x) / f->n; }

/* A line through logarithms: its slope is a power. */
static void fit_add_power(fit *f, int64_t size, double seconds) { fit_add(f, log((double)size), log(seconds), 1); }

static bool differs_in_layers_alone(const bench *b, sizes s) { return s.tokens == b->works[0].tokens && s.points == b->works[0].points; }
static bool differs_in_tokens_alone(const bench *b, sizes s) { return s.layers == b->works[0].layers && s.points == s.tokens * b->works[0].points / b->works[0].tokens; } /* as plan() has them */

/** Seconds of a prefill over layers, fixed + each * layers (the head and what else is done once are no layers'): the line of least squares of relative distances. */
typedef struct layer_line {
  double fixed, each;
  double off; /* the largest distance of a prefill from it, relative; NAN where there are fewer than three, for two are always on a line */
} layer_line;

static layer_line line_over_layers(const bench *b, const subject *who) {
  fit f = {0};
  int n = 0;
  for (int i = 0; i < b->n_works; i++) {
    const double seconds = who->timings[i].prefill;
    if (differs_in_layers_alone(b, b->works[i])) fit_add(&f, (double)b->works[i].layers, seconds, 1 / (seconds * seconds)), n++;
  }
  layer_line line = {fit_intercept(&f), fit_slope(&f), n < 3 ? NAN : 0};
  for (int i = 0; i < b->n_works && n >= 3; i++)
    if (differs_in_layers_alone(b, b->works[i])) line.off = fmax(line.off, fabs((line.fixed + line.each * (double)b->works[i].layers) / who->timings[i].prefill - 1));
  return line;
}

/** By which power a prefill's seconds grow with tokens, their share of points alike, among the works of the most layers; NAN where there are fewer than two. */
static double power_of_tokens(const bench *b, const subject *who) {
  fit f = {0};
  for (int i = 0; i < b->n_works; i++)
    if (differs_in_tokens_alone(b, b->works[i])) fit_add_power(&f, b->works[i].tokens, who->timings[i].prefill);
  return fit_slope(&f);
}

static void print_number(FILE *to, double value, const char *format) {
  if (!isfinite(value)) fputs("–", to);
  else fprintf(to, format, value);
}

static void write_table(const bench *b, FILE *to) {
  fprintf(to, "| backend | tier | layers | tokens | points | prefill, s | GFLOP/s | of the peak | decode step, s | times reading the weights | times the first | peak memory, MiB |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
  for (int k = 0; k < b->n_works; k++)
    for (int i = 0; i < b->n_subjects; i++) {
      const subject *who = &b->subjects[i];
      const timing *t = &who->timings[k], *first = &b->subjects[0].timings[k];
      const double rate = prefill_flops(b, t->of) / t->prefill;
      fprintf(to, "| %s | %s | %" PRId64 " | %" PRId64 " | %" PRId64 " | %.3g | %.1f | %.0f %% | ", who->name, mr3d_tier_name(who->tier), t->of.layers, t->of.tokens, t->of.points, t->prefill,
              1e-9 * rate, 100 * rate / b->machine_peak);
      print_number(to, t->decode, "%.3g");
      fprintf(to, " | ");
      if (k == 0) print_number(to, t->decode / who->reading, "%.2f");
      fprintf(to, " | %.2f | ", t->prefill / first->prefill);
      if (k == 0) fprintf(to, "%.0f", who->peak / 1048576);
      fprintf(to, " |\n");
    }
  fprintf(to, "\n| backend | tier | prefill of n layers, s | at most off that line by | prefill grows with tokens as | attention alone with tokens as | of %" PRId64 " tokens, s |\n|---|---|---|---|---|---|---|\n", b->tokens[0]);
  for (int i = 0; i < b->n_subjects; i++) {
    const subject *who = &b->subjects[i];
    const layer_line line = line_over_layers(b, who);
    fit attention = {0};
    for (int k = 0; k < b->n_tokens; k++) fit_add_power(&attention, b->tokens[k], who->attention[k]);
    fprintf(to, "| %s | %s | ", who->name, mr3d_tier_name(who->tier));
    print_number(to, line.fixed, "%.3g");
    if (isfinite(line.each)) fprintf(to, " + %.3g n", line.each);
    fprintf(to, " | ");
    print_number(to, 100 * line.off, "%.1f %%");
    fprintf(to, " | ");
    print_number(to, power_of_tokens(b, who), "n^%.2f");
    fprintf(to, " | ");
    print_number(to, fit_slope(&attention), "n^%.2f");
    fprintf(to, " | ");
    print_number(to, who->attention[0], "%.3g");
    fprintf(to, " |\n");
  }
}

/** Prefill over tokens, both in logarithms, a line a backend. */
static void write_svg(const bench *b, FILE *to) {
  static const char *const colours[] = {"#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#475569"};
  enum { WIDTH = 640, HEIGHT = 400, LEFT = 70, BOTTOM = 50, TOP = 20, RIGHT = 190 };
  double lo_x = INFINITY, hi_x = -INFINITY, lo_y = INFINITY, hi_y = -INFINITY;
  for (int i = 0; i < b->n_subjects; i++)
    for (int k = 0; k < b->n_works; k++) {
      const timing *t = &b->subjects[i].timings[k];
      if (!differs_in_tokens_alone(b, t->of)) continue;
      lo_x = fmin(lo_x, log((double)t->of.tokens)), hi_x = fmax(hi_x, log((double)t->of.tokens));
      lo_y = fmin(lo_y, log(t->prefill)), hi_y = fmax(hi_y, log(t->prefill));
    }
  const double wide = hi_x > lo_x ? hi_x - lo_x : 1, high = hi_y > lo_y ? hi_y - lo_y : 1;
  fprintf(to, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" font-family=\"sans-serif\" font-size=\"12\">\n<title>Seconds of a prefill over tokens</title>\n", WIDTH, HEIGHT);
  fprintf(to, "<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n<path d=\"M%d %dV%dH%d\" fill=\"none\" stroke=\"#111\"/>\n", LEFT, TOP, HEIGHT - BOTTOM, WIDTH - RIGHT);
  fprintf(to, "<text x=\"%d\" y=\"%d\">tokens (logarithmic)</text>\n<text x=\"8\" y=\"14\">seconds of a prefill (logarithmic)</text>\n", LEFT, HEIGHT - 12);
  for (int i = 0; i < b->n_subjects; i++) {
    const subject *who = &b->subjects[i];
    const char *colour = colours[i % 6];
    double before_x = NAN, before_y = NAN;
    for (int k = 0; k < b->n_works; k++) {
      const timing *t = &who->timings[k];
      if (!differs_in_tokens_alone(b, t->of)) continue;
      const double x = LEFT + (WIDTH - RIGHT - LEFT) * (log((double)t->of.tokens) - lo_x) / wide, y = HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (log(t->prefill) - lo_y) / high;
      fprintf(to, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"%s\"><title>%s %s, %" PRId64 " tokens: %.3g s</title></circle>\n", x, y, colour, who->name, mr3d_tier_name(who->tier), t->of.tokens, t->prefill);
      if (!isnan(before_x)) fprintf(to, "<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"%s\"/>\n", before_x, before_y, x, y, colour);
      before_x = x, before_y = y;
      if (i == 0) fprintf(to, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%" PRId64 "</text>\n", x, HEIGHT - BOTTOM + 16, t->of.tokens);
    }
    fprintf(to, "<text x=\"%d\" y=\"%d\" fill=\"%s\">%s %s</text>\n", WIDTH - RIGHT + 12, TOP + 14 + 18 * i, colour, who->name, mr3d_tier_name(who->tier));
  }
  fprintf(to, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text>\n<text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.3g</text>\n</svg>\n", LEFT - 6, TOP + 10, exp(hi_y), LEFT - 6,
          HEIGHT - BOTTOM, exp(lo_y));
}

/* ---- the command line ---- */

/** Numbers joined by commas, at least `least` each; ascending order is not asked for. */
static int read_list(const char *option, const char *text, int64_t least, int64_t list[MOST]) {
  int n = 0;
  for (const char *at = text; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
    char *end;
    const long long value = strtoll(at, &end, 10);
    if (end == at || (*end && *end != ',') || value < least || n == MOST || value > 1 << 20)
      return mr3d_complain("%s %s: expected at most %d whole numbers of at least %" PRId64 ", joined by commas", option, text, MOST, least), -1;
    list[n++] = value;
  }
  return n;
}

static int64_t largest_of(const int64_t *list, int n) {
  int64_t largest = list[0];
  for (int i = 1; i < n; i++) largest = list[i] > largest ? list[i] : largest;
  return largest;
}

static int descending(const void *a, const void *b) { return (*(const int64_t *)a < *(const int64_t *)b) - (*(const int64_t *)a > *(const int64_t *)b); }

static void add_work(bench *b, sizes s) {
  for (int i = 0; i < b->n_works; i++)
    if (b->works[i].layers == s.layers && b->works[i].tokens == s.tokens && b->works[i].points == s.points) return;
  b->works[b->n_works++] = s;
}

/** The largest of each list together; then each list on its own, points in proportion where tokens vary. */
static void plan(bench *b) {
  const sizes base = {largest_of(b->layers, b->n_layers), largest_of(b->tokens, b->n_tokens), largest_of(b->points, b->n_points)};
  add_work(b, base);
  for (int i = 0; i < b->n_layers; i++) add_work(b, (sizes){b->layers[i], base.tokens, base.points});
  qsort(b->tokens, (size_t)b->n_tokens, sizeof *b->tokens, descending); /* neighbours of the plot */
  for (int i = 0; i < b->n_tokens; i++) add_work(b, (sizes){base.layers, b->tokens[i], b->tokens[i] * base.points / base.tokens});
  for (int i = 0; i < b->n_points; i++) add_work(b, (sizes){base.layers, base.tokens, b->points[i]});
}

static mr3d_status time_subject(bench *b, subject *who, const char *folder, mr3d_error *error) {
  char weights[4096];
  mr3d_backend *backend = NULL;
  MR3D_TRY(write_weights(b, who->tier, folder, weights, error));
  forget_peak();
  mr3d_weights_cache *cache = mr3d_weights_cache_new();
  mr3d_status status = mr3d_backend_open(who->spec, &(mr3d_backend_options){.threads = (int)b->threads, .weights = cache}, &backend, error);
  if (status == MR3D_OK) {
    snprintf(who->name, sizeof who->name, "%s", mr3d_backend_info_of(backend)->name ? mr3d_backend_info_of(backend)->name : who->spec);
    for (int64_t i = 0; i < b->repeat * b->n_works && status == MR3D_OK; i++) { /* all sizes, then all again: a slow minute meets each */
      const int k = (int)(i % b->n_works);
      b->machine_peak = fmax(b->machine_peak, measure_peak((int)b->threads)); /* again and again, for on a machine that is shared it comes and goes */
      status = time_model(b, backend, who, &who->timings[k], weights, error);
      if (i == 0) who->peak = fmax(who->peak, peak_memory(who));
      if (k == 0 && status == MR3D_OK) status = measure_reading(weights, (int)b->threads, &who->reading, error); /* right behind the steps: bandwidth comes and goes */
      if (status == MR3D_OK && isatty(STDERR_FILENO)) fprintf(stderr, "%s %s: %" PRId64 " of %" PRId64 "\n", who->name, mr3d_tier_name(who->tier), i + 1, b->repeat * b->n_works);
    }
    for (int k = 0; mr3d_backend_offers(mr3d_backend_info_of(backend), "attention") && k < b->n_tokens && status == MR3D_OK; k++) status = time_attention(b, backend, who, b->tokens[k], &who->attention[k], error);
    mr3d_backend_close(&backend);
  }
  mr3d_weights_cache_free(&cache);
  return status;
}

static mr3d_status write_file(const bench *b, const char *path, void (*write)(const bench *, FILE *), mr3d_error *error) {
  if (!path) return MR3D_OK;
  FILE *to = fopen(path, "w");
  if (!to) return mr3d_fail(error, MR3D_IO, "%s cannot be written", path);
  write(b, to);
  return fclose(to) == 0 ? MR3D_OK : mr3d_fail(error, MR3D_IO, "%s could not be written whole", path);
}

int mr3d_command_bench(int argc, char **argv) {
  bench b = {.layers_text = "1,2,4", .tokens_text = "98,196,393,786", .points_text = "0,556", .vocabulary = 2048, .steps = 3, .repeat = 3, .rounds = 1};
  const mr3d_option options[] = {
      {"--layers", "LIST", MR3D_OPTION_TEXT, &b.layers_text, "layers (default 1,2,4); the largest of each list is what the others are varied from"},
      {"--tokens", "LIST", MR3D_OPTION_TEXT, &b.tokens_text, "tokens of a prefill (default 98,196,393,786)"},
      {"--points", "LIST", MR3D_OPTION_TEXT, &b.points_text, "of them points (default 0,556)"},
      {"--vocabulary", "N", MR3D_OPTION_COUNT, &b.vocabulary, "rows of the head (default 2048; Qwen2's are 151936)"},
      {"--steps", "N", MR3D_OPTION_COUNT, &b.steps, "decode steps behind each prefill (default 3)"},
      {"--repeat", "K", MR3D_OPTION_COUNT, &b.repeat, "go through all sizes K times and take the shortest of each (default 3)"},
      {"--rounds", "N", MR3D_OPTION_COUNT, &b.rounds, "go through all backends N times (default 1): what slows the machine for a minute then meets them all"},
      {"--threads", "N", MR3D_OPTION_COUNT, &b.threads, "for each backend (default: all processors)"},
      {"--markdown", "FILE", MR3D_OPTION_TEXT, &b.markdown, "write the tables there, too"},
      {"--svg", "FILE", MR3D_OPTION_TEXT, &b.svg, "plot prefill over tokens"},
      {NULL}};
  const mr3d_usage usage = {
      .line = "mr3d bench SPEC@TIER [SPEC@TIER ...] [OPTION ...]",
      .text = "Times the same prefill and decode requests of a full-width decoder (hidden 896, 14 heads, 2 KV heads of 64) on each backend, one after\n"
              "the other, with generated weights. GFLOP/s counts products and causal attention of a prefill; the peak is what independent products and\n"
              "sums of binary64 reach on all threads without fused multiply-add, so binary32 may exceed it. A decode step must read all weights once, so that\n"
              "is timed beside it. Ratios are to the first backend. Over layers a prefill is a line, for the head and what else is done once are no layers'; how far\n"
              "the timed ones lie from it says whether it is one.\n",
      .least = 1, .most = -1, .needs = "say whom to time, and at which tier; for instance: mr3d bench builtin:reference@fp64"};
  int n = 0;
  const int parsed = mr3d_options_parse(&usage, options, argc, argv, &n);
  if (parsed >= 0) return parsed;
  b.n_layers = read_list("--layers", b.layers_text, 1, b.layers);
  b.n_tokens = b.n_layers < 0 ? -1 : read_list("--tokens", b.tokens_text, 1, b.tokens);
  b.n_points = b.n_tokens < 0 ? -1 : read_list("--points", b.points_text, 0, b.points);
  if (b.n_points < 0) return 1;
  if (b.vocabulary < 1 || b.repeat < 1 || b.rounds < 1)
    return mr3d_complain("%s 0: expected at least 1", b.repeat < 1 ? "--repeat" : b.rounds < 1 ? "--rounds" : "--vocabulary");
  if (largest_of(b.points, b.n_points) > largest_of(b.tokens, b.n_tokens)) return mr3d_complain("--points %s: more points than --tokens %s", b.points_text, b.tokens_text);
  plan(&b);
  if (b.threads == 0) b.threads = mr3d_parallel_jobs(0);

  b.subjects = mr3d_allocate(n, sizeof *b.subjects);
  for (; b.n_subjects < n; b.n_subjects++) {
    subject *who = &b.subjects[b.n_subjects];
    char *at = strrchr(argv[b.n_subjects], '@');
    who->tier = at ? mr3d_tier_named(at + 1) : MR3D_N_TIERS;
    if (who->tier == MR3D_N_TIERS) return mr3d_complain("\"%s\": expected SPEC@TIER, for instance builtin:reference@fp64", argv[b.n_subjects]);
    *at = 0;
    who->spec = argv[b.n_subjects];
    for (int k = 0; k < b.n_works; k++) who->timings[k] = (timing){b.works[k], INFINITY, INFINITY};
    for (int k = 0; k < b.n_tokens; k++) who->attention[k] = INFINITY;
    who->reading = INFINITY;
  }
  mr3d_error error = {0};
  const char *folder;
  mr3d_status status = mr3d_scratch_open(&folder, &error);
  for (int64_t k = 0; k < b.rounds * n && status == MR3D_OK; k++) status = time_subject(&b, &b.subjects[k % n], folder, &error);
  mr3d_scratch_close();
  if (status == MR3D_OK) {
    printf("%" PRId64 " threads, peak %.1f GFLOP/s\n\n", b.threads, 1e-9 * b.machine_peak);
    write_table(&b, stdout);
    status = write_file(&b, b.markdown, write_table, &error);
    if (status == MR3D_OK) status = write_file(&b, b.svg, write_svg, &error);
  }
  free(b.subjects);
  return status == MR3D_OK ? 0 : mr3d_complain("%s", error.message);
}
