#include "words.h"

#include <string.h>

bool mr3d_word_selected(const char *list, const char *word) {
  size_t length = strlen(word);
  for (; list; list = strchr(list, ',') ? strchr(list, ',') + 1 : "") {
    size_t end = strcspn(list, ",");
    if (end == length && strncmp(list, word, end) == 0) return true;
    if (!*list) return false;
  }
  return true;
}

/** Levenshtein distance, for words of at most 63 bytes. */
static int distance(const char *a, const char *b) {
  size_t m = strlen(a), n = strlen(b);
  if (m > 63 || n > 63) return 64;
  int row[64];
  for (size_t j = 0; j <= n; j++) row[j] = (int)j;
  for (size_t i = 1; i <= m; i++) {
    int diagonal = row[0];
    row[0] = (int)i;
    for (size_t j = 1; j <= n; j++) {
      int change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
      if (change < row[j]) row[j] = change;
    }
  }
  return row[n];
}

const char *mr3d_word_meant(const char *word, int count, const char *const known[]) {
  int best = (int)strlen(word) / 2 + 1; /* more than half the letters wrong: not meant */
  const char *meant = NULL;
  for (int i = 0; i < count; i++) {
    int d = distance(word, known[i]);
    if (d < best) best = d, meant = known[i];
  }
  if (meant) return meant;
  for (int i = 0; i < count; i++) /* the beginning or a part of a longer word */
    if (strlen(word) >= 3 && strstr(known[i], word)) return known[i];
  return NULL;
}
