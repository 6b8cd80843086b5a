#include "signals.h"

#include <ctype.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "mr3d/status.h"

extern const char mr3d_embedded_error_signals[]; /* docs/error-signals.md, put here by embed.c */

enum { MOST_SIGNALS = 32, CELLS = 6 };

static mr3d_signal table[MOST_SIGNALS];
static int count;
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* Cuts a row "| a | b | c |" into its cells; false where it has not CELLS of them. */
static bool cut_cells(char *row, char *cells[CELLS]) {
  if (strncmp(row, "| ", 2) != 0) return false;
  row += 2;
  for (int i = 0; i < CELLS; i++) {
    char *end = strstr(row, i + 1 < CELLS ? " | " : " |");
    if (!end) return false;
    *end = 0;
    cells[i] = row;
    row = end + (i + 1 < CELLS ? 3 : 2);
  }
  return *row == 0;
}

/* Takes the words between backquotes out of "`a`, `b`". */
static int cut_codes(char *text, const char *codes[], int most) {
  int n = 0;
  for (char *at = strchr(text, '`'); at && n < most; at = strchr(at, '`')) {
    char *end = strchr(at + 1, '`');
    if (!end) break;
    *end = 0;
    codes[n++] = at + 1;
    at = end + 1;
  }
  return n;
}

static void parse(void) {
  const char *from = strstr(mr3d_embedded_error_signals, "## In your own runs");
  char *text = mr3d_allocate((long long)strlen(from ? from : "") + 1, 1), *rest; /* kept: the table points into it */
  strcpy(text, from ? from : "");
  int line_number = 0;
  for (char *line = strtok_r(text, "\n", &rest); line && count < MOST_SIGNALS; line = strtok_r(NULL, "\n", &rest)) {
    char *cells[CELLS];
    if (line[0] == '#' && line_number++ > 0) break; /* the next section */
    if (strncmp(line, "| `", 3) != 0 || !cut_cells(line, cells)) continue;
    mr3d_signal *s = &table[count];
    const char *slug[1];
    if (cut_codes(cells[0], slug, 1) != 1) continue;
    *s = (mr3d_signal){.slug = slug[0], .sight = cells[1], .numbers = cells[2], .because = cells[4], .look = cells[5]};
    cut_codes(cells[3], s->pitfalls, 5);
    count++;
  }
}

int mr3d_signal_count(void) {
  pthread_once(&once, parse);
  return count;
}

const mr3d_signal *mr3d_signal_at(int index) {
  pthread_once(&once, parse);
  return &table[index];
}

const mr3d_signal *mr3d_signal_named(const char *slug) {
  for (int i = 0; i < mr3d_signal_count(); i++)
    if (strcmp(table[i].slug, slug) == 0) return &table[i];
  return NULL;
}

/* ---- messages ---- */

/* Whether the text holds the number, not as a part of a longer one; thousands may be set apart by commas. */
static bool holds(const char *text, int64_t number) {
  for (const char *at = text; *at;) {
    if (!isdigit((unsigned char)*at)) {
      at++;
      continue;
    }
    int64_t value = 0;
    for (; isdigit((unsigned char)*at) || (*at == ',' && isdigit((unsigned char)at[1]) && isdigit((unsigned char)at[2]) && isdigit((unsigned char)at[3]) && !isdigit((unsigned char)at[4])); at++)
      if (*at != ',' && value < INT64_MAX / 16) value = 10 * value + (*at - '0');
    if (value == number) return true;
  }
  return false;
}

static int64_t or_canonical(int64_t number, int64_t canonical) { return number > 0 ? number : canonical; }

int mr3d_signals_in_text(const char *message, const mr3d_signal_numbers *given, int most, const mr3d_signal *found[]) {
  static const mr3d_signal_numbers none = {0};
  const mr3d_signal_numbers *n = given ? given : &none;
  const int64_t K = or_canonical(n->keys, 787), M = or_canonical(n->mask_columns, 232), H = or_canonical(n->heads, 14), G = or_canonical(n->kv_heads, 2),
                N = or_canonical(n->points, 556), raw = or_canonical(n->raw_points, 106328), S = or_canonical(n->tokens, 786), D = or_canonical(n->head_dim, 64);
  const struct { const char *slug; int64_t a, b; } pairs[] = {{"mask-columns", K, M}, {"heads", H, G},  {"points-heads", N, H}, {"points-heads", N, G}, {"raw-rows", raw, N}, {"splice-length", S, S - 1},
                                                              {"splice-length", S, S + 1}, {"head-dim", D, D / 2}};
  static const struct { const char *slug, *words; } phrases[] = {{"never-returns", "no answer within"}, {"never-returns", "never return"}, {"never-returns", "timed out"},
                                                                 {"never-returns", "hangs"},            {"nan-half", "65504"},            {"nan-padding", "nan with padding"}};
  int count_found = 0;
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs + sizeof phrases / sizeof *phrases; i++) {
    const size_t p = i - sizeof pairs / sizeof *pairs;
    const bool is_pair = i < sizeof pairs / sizeof *pairs;
    if (is_pair ? pairs[i].a == pairs[i].b || !holds(message, pairs[i].a) || !holds(message, pairs[i].b) : !strcasestr(message, phrases[p].words)) continue;
    const mr3d_signal *s = mr3d_signal_named(is_pair ? pairs[i].slug : phrases[p].slug);
    bool new = s != NULL;
    for (int k = 0; k < count_found && k < most; k++) new &= found[k] != s;
    if (!new) continue;
    if (count_found < most) found[count_found] = s;
    count_found++;
  }
  return count_found < most ? count_found : most;
}
