/** The catalogue of pitfalls: docs/pitfalls.md, built into the program and parsed when first asked for. */
#ifndef MR3D_CONFORM_PITFALLS_H
#define MR3D_CONFORM_PITFALLS_H

/** One section of docs/pitfalls.md. Texts are plain, with `code` in backquotes. */
typedef struct mr3d_pitfall {
  const char *id, *slug, *title;                 /**< "P1", "mask-length", one line */
  const char *mistake, *effect, *symptom, *fix;  /**< a paragraph each */
} mr3d_pitfall;

int mr3d_pitfall_count(void);
const mr3d_pitfall *mr3d_pitfall_at(int index);
/** By slug or by id ("P1", "p1"), or NULL. */
const mr3d_pitfall *mr3d_pitfall_named(const char *slug_or_id);

#endif
