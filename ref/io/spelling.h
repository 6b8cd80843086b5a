/** Keys that look like a misspelt known one (protocol.md, "Configuration"). */
#ifndef MR3D_IO_SPELLING_H
#define MR3D_IO_SPELLING_H

#define MR3D_SPELLING_NEAR 2 /* edit distance at which a key counts as misspelt */

/**
 * How far a name is from a known key: 0 where both have the same letters apart from case, `_` and `-`, else the edit distance, and
 * MR3D_SPELLING_NEAR + 1 for all that is farther. Requires: the known key has at most 40 bytes.
 */
int mr3d_spelling_distance(const char *name, const char *known);

#endif
