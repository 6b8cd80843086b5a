#include "spelling.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static const char *skip_joints(const char *text) { return text + strspn(text, "_-"); }

/* Whether two names have the same letters, apart from case, `_` and `-`. */
static bool same_letters(const char *a, const char *b) {
  for (a = skip_joints(a), b = skip_joints(b); *a != '\0' && *b != '\0'; a = skip_joints(a + 1), b = skip_joints(b + 1))
    if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
      return false;
  return *a == *b;
}

#define NEAR MR3D_SPELLING_NEAR
#define LONGEST_KEY 40 /* mixedRoPE_3d_learned_axial_mixing_weight */

/* Levenshtein distance (insertion, deletion, substitution of one byte), or NEAR + 1 where it is obviously larger. */
static int edit_distance(const char *name, const char *known) {
  const int n = (int)strnlen(name, LONGEST_KEY + NEAR + 1), m = (int)strlen(known);
  if (abs(n - m) > NEAR)
    return NEAR + 1;
  int row[LONGEST_KEY + 1];
  for (int j = 0; j <= m; j++)
    row[j] = j;
  for (int i = 1; i <= n; i++) {
    int diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= m; j++) {
      const int substituted = diagonal + (name[i - 1] != known[j - 1]);
      diagonal = row[j];
      const int shifted = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
      row[j] = substituted < shifted ? substituted : shifted;
    }
  }
  return row[m] < NEAR + 1 ? row[m] : NEAR + 1;
}

int mr3d_spelling_distance(const char *name, const char *known) { return same_letters(name, known) ? 0 : edit_distance(name, known); }
