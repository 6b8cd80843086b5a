/** The limits of the judge's rules, for those who apply them again to recorded statistics. */
#ifndef MR3D_CONFORM_JUDGE_LIMITS_H
#define MR3D_CONFORM_JUDGE_LIMITS_H

#include <stdbool.h>

/**
 * What the limit of a rule can be for an answer that passes: `least` and `most` are one number for a rule that is the same for all data, a range where it depends on them
 * (rows, differing rows, allowances; docs/tolerance.md). False: there is no such rule.
 */
bool mr3d_scale_limit(const char *rule, double *least, double *most);     /**< single operators */
bool mr3d_yardstick_limit(const char *rule, double *least, double *most); /**< composed operators */

/** Whether an operator is judged by the yardstick, not by its error scale. */
bool mr3d_op_is_composed(const char *op);

#endif
