/** Words a user may type: lists joined by commas, and what an unknown word may have meant. */
#ifndef MR3D_CONFORM_WORDS_H
#define MR3D_CONFORM_WORDS_H

#include <stdbool.h>

/** Whether `word` is one of the comma-separated words of `list` (NULL: every word is). */
bool mr3d_word_selected(const char *list, const char *word);

/** The word of `known` (`count` of them) most like `word`, or NULL when none is close. */
const char *mr3d_word_meant(const char *word, int count, const char *const known[]);

#endif
