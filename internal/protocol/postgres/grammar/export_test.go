package grammar

// MainFor is Main with something else in the grammar's place.
var MainFor = mainFor
