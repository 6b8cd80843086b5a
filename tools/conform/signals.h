/** The table of error signals: docs/error-signals.md, "In your own runs", built into the program. What somebody sees, what it is, what to look at. */
#ifndef MR3D_CONFORM_SIGNALS_H
#define MR3D_CONFORM_SIGNALS_H

#include <stdint.h>

/** One row. Texts are plain, with `code` in backquotes. */
typedef struct mr3d_signal {
  const char *slug;                              /**< "mask-columns" */
  const char *sight, *numbers, *because, *look;  /**< what is seen; which numbers; why; what to look at */
  const char *pitfalls[6];                       /**< slugs of the catalogue, NULL at the end */
} mr3d_signal;

int mr3d_signal_count(void);
const mr3d_signal *mr3d_signal_at(int index);
const mr3d_signal *mr3d_signal_named(const char *slug); /**< or NULL */

/** The numbers by which a message gives itself away; those of the canonical prompt and model where one is 0. */
typedef struct mr3d_signal_numbers {
  int64_t keys, mask_columns; /**< at the first decode step: 787, 232 */
  int64_t heads, kv_heads;    /**< 14, 2 */
  int64_t points, raw_points; /**< 556, 106328 */
  int64_t tokens;             /**< of the spliced prompt: 786 */
  int64_t head_dim;           /**< 64 */
} mr3d_signal_numbers;

/** The rows that a message names, by its numbers (a pair of them, as whole numbers) or its words; at most `most`. `numbers` NULL: the canonical ones. Returns how many. */
int mr3d_signals_in_text(const char *message, const mr3d_signal_numbers *numbers, int most, const mr3d_signal *found[]);

#endif
