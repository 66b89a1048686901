// Package packtest writes synthetic logs for tests: what a gateway would have
// recorded flows in as calls, and blocks, tiles, checkpoint and seeds flow out,
// sealed with keys made from constants, so that equal calls give equal packs.
// Every record can be changed on its way in; a log of lies is sealed as
// faithfully as any.
package packtest
