/**
 * The product for one element type and one instruction set, made by including this file with
 *
 *   TILE_REAL      double or float              TILE_OF(w)    what is packed for a weight: w, or its square
 *   TILE_BYTES     bytes of a vector register   TILE_VECTORS  registers side by side in a tile
 *   TILE_TARGET    target attribute of the functions, or nothing
 *   TILE_STEP(sum, x, w)  a vector of sums with a term more, x * w added in two roundings or in one; TILE_TERM: the same for one sum
 *   TILE_NAME(part)  name of a function: sums, the inner one; block, the outer one; few, that for few rows
 *   TILE_FEW       where defined, the one for few rows, which is there already
 */

/**
 * sums[r][o] += x[r][i] * packed[i][o] for i = 0 .. in-1 in order, o = 0 .. width-1; `fresh`: from 0. They stay in registers; `rows` is 1 or TILE_ROWS.
 */
TILE_TARGET static void TILE_NAME(sums)(int64_t rows, int64_t in, const TILE_REAL *x, int64_t x_row, const TILE_REAL *packed, bool fresh, TILE_REAL *sums, int64_t sums_row) {
  typedef TILE_REAL vector __attribute__((vector_size(TILE_BYTES), aligned(sizeof(TILE_REAL)), may_alias));
  enum { lanes = TILE_BYTES / sizeof(TILE_REAL), width = lanes * TILE_VECTORS };
  if (rows == 1) {
    vector sum[TILE_VECTORS];
    UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
      sum[v] = fresh ? (vector){0} : *(const vector *)(sums + v * lanes);
    for (int64_t i = 0; i < in; i++)
      UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
        sum[v] = TILE_STEP(sum[v], x[i], *(const vector *)(packed + i * width + v * lanes));
    UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
      *(vector *)(sums + v * lanes) = sum[v];
    return;
  }
  vector sum[TILE_ROWS][TILE_VECTORS];
  UNROLLED for (int r = 0; r < TILE_ROWS; r++)
    UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
      sum[r][v] = fresh ? (vector){0} : *(const vector *)(sums + r * sums_row + v * lanes);
  for (int64_t i = 0; i < in; i++)
    UNROLLED for (int r = 0; r < TILE_ROWS; r++)
      UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
        sum[r][v] = TILE_STEP(sum[r][v], x[r * x_row + i], *(const vector *)(packed + i * width + v * lanes));
  UNROLLED for (int r = 0; r < TILE_ROWS; r++)
    UNROLLED for (int v = 0; v < TILE_VECTORS; v++)
      *(vector *)(sums + r * sums_row + v * lanes) = sum[r][v];
}

#ifndef TILE_FEW
/** Outputs first .. first+count-1 of few rows, without packing. FEW_SUMS of them side by side hide how long an addition takes. */
TILE_TARGET static void TILE_NAME(few)(const mr3d_product_in *p, const TILE_REAL *x, int64_t x_row, int64_t first, int64_t count, TILE_REAL *y) {
  for (int64_t o = first; o < first + count; o += FEW_SUMS) {
    const int64_t n = first + count - o < FEW_SUMS ? first + count - o : FEW_SUMS;
    const double *w[FEW_SUMS];
    for (int64_t k = 0; k < FEW_SUMS; k++)
      w[k] = p->w + (o + (k < n ? k : 0)) * p->w_out;
    for (int64_t r = 0; r < p->rows; r++) {
      TILE_REAL sum[FEW_SUMS] = {0};
      if (p->onto)
        memcpy(sum, y + r * p->y_row + o, sizeof(TILE_REAL) * (size_t)n);
      for (int64_t i = 0; i < p->in; i++)
        UNROLLED for (int k = 0; k < FEW_SUMS; k++)
          sum[k] = TILE_TERM(sum[k], x[r * x_row + i], TILE_OF(w[k][i]));
      memcpy(y + r * p->y_row + o, sum, sizeof(TILE_REAL) * (size_t)n);
    }
  }
}
#define TILE_FEW TILE_NAME(few)
#endif

/**
 * Outputs first .. first+count-1 of all rows, TILE_DEPTH terms at a time: y carries the sums from one stretch of terms to the next.
 * packed holds BLOCK_OUTPUTS * TILE_DEPTH elements.
 */
TILE_TARGET static void TILE_NAME(block)(const mr3d_product_in *p, const TILE_REAL *x, int64_t x_row, int64_t first, int64_t count,
                                   TILE_REAL *packed, TILE_REAL *y) {
  if (p->rows <= MR3D_FEW_ROWS && p->w_in == 1) {
    TILE_FEW(p, x, x_row, first, count, y);
    return;
  }
  enum { width = TILE_BYTES / sizeof(TILE_REAL) * TILE_VECTORS };
  TILE_REAL ragged[TILE_ROWS * width] = {0}; /* of a last tile that is not whole */
  for (int64_t start = 0; start == 0 || start < p->in; start += TILE_DEPTH) {
    const int64_t depth = p->in - start < TILE_DEPTH ? p->in - start : TILE_DEPTH;
    for (int64_t o = 0; o < count; o += width) {
      const double *w[width]; /* behind the last output stands the tile's first: its sums go nowhere */
      TILE_REAL *to = packed + o * TILE_DEPTH;
      for (int64_t k = 0; k < width; k++)
        w[k] = p->w + (first + o + (o + k < count ? k : 0)) * p->w_out + start * p->w_in;
      for (int64_t i = 0; i < depth; i++)
        UNROLLED for (int64_t k = 0; k < width; k++)
          to[i * width + k] = TILE_OF(w[k][i * p->w_in]);
    }
    const bool fresh = start == 0 && !p->onto;
    for (int64_t r = 0, rows; r < p->rows; r += rows) {
      rows = p->rows - r >= TILE_ROWS ? TILE_ROWS : 1;
      for (int64_t o = 0; o < count; o += width) {
        TILE_REAL *sums = y + r * p->y_row + first + o;
        const size_t bytes = sizeof(TILE_REAL) * (size_t)(count - o);
        const bool whole = count - o >= width;
        for (int64_t k = 0; k < rows && !whole && !fresh; k++)
          memcpy(ragged + k * width, sums + k * p->y_row, bytes);
        TILE_NAME(sums)(rows, depth, x + r * x_row + start, x_row, packed + o * TILE_DEPTH, fresh, whole ? sums : ragged, whole ? p->y_row : width);
        for (int64_t k = 0; k < rows && !whole; k++)
          memcpy(sums + k * p->y_row, ragged + k * width, bytes);
      }
    }
  }
}
#undef TILE_REAL
#undef TILE_OF
#undef TILE_BYTES
#undef TILE_VECTORS
#undef TILE_TARGET
#undef TILE_STEP
#undef TILE_TERM
#undef TILE_NAME
#undef TILE_FEW
