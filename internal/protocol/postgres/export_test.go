package postgres

// Callable are the functions that a FunctionCall may name and be understood.
var Callable = callable
