package grammar

// The bytes that stand in a skeleton for what it leaves out. No text that has
// them outside its strings has a skeleton.
const (
	skeletonInteger = 0x01
	skeletonString  = 0x02
	skeletonDecimal = 0x03
)

// maxDigits keeps numbers to those whose value no token rule looks at.
const maxDigits = 18

// Skeleton appends text to dst without its plain numbers and simple strings,
// and reports whether it could: texts with comments, dollar quotes, escapes,
// prefixed strings or control characters have no skeleton. It errs on that
// side, since PostgreSQL's lexer isn't ours. at, if not nil, collects the
// offsets of what was left out.
//
// Two texts with equal skeletons are the same sequence of tokens but for the
// values of those constants.
func Skeleton(dst []byte, text string, at *[]int) ([]byte, bool) {
	start := 0 // of what hasn't been copied yet
	for i := 0; i < len(text); {
		switch c := text[i]; class[c] {
		case classPlain:
			i++
		case classWord: // a word, a parameter, or a number that isn't plain
			end := endOfWord(text, i)
			if end == i {
				return dst, false // a dollar quote
			}
			i = end
		case classDigit:
			end, mark := endOfDigits(text, i), byte(skeletonInteger)
			if after := endOfDigits(text, end+1); end < len(text) && text[end] == '.' && after > end+1 {
				end, mark = after, skeletonDecimal // as 1.5, not 1. or 1..5
			}
			if end < len(text) && (class[text[end]] == classWord || text[end] == '.') || i > 0 && text[i-1] == '.' || end-i > maxDigits {
				i = endOfWord(text, i)
				break
			}
			dst = append(append(dst, text[start:i]...), mark)
			if at != nil {
				*at = append(*at, i)
			}
			i, start = end, end
		case classQuote:
			end := i + 1
			for end < len(text) && text[end] != '\'' && text[end] != '\\' && text[end] != 0 {
				end++
			}
			if end+1 < len(text) && text[end+1] == '\'' || end == len(text) || text[end] != '\'' || i > 0 && isPrefix(text[i-1]) {
				return dst, false
			}
			dst = append(append(dst, text[start:i]...), skeletonString)
			if at != nil {
				*at = append(*at, i)
			}
			i, start = end+1, end+1
		case classIdent:
			if i > 0 && text[i-1] == '&' {
				return dst, false // U&"..."
			}
			end := i + 1
			for end < len(text) && text[end] != '"' && text[end] >= ' ' {
				end++
			}
			if end == len(text) || text[end] != '"' {
				return dst, false
			}
			i = end + 1
		case classDash, classSlash:
			if i+1 < len(text) && (c == '-' && text[i+1] == '-' || c == '/' && text[i+1] == '*') {
				return dst, false
			}
			i++
		default:
			return dst, false
		}
	}
	return append(dst, text[start:]...), true
}

func endOfDigits(text string, i int) int {
	for i < len(text) && class[text[i]] == classDigit {
		i++
	}
	return i
}

// endOfWord steps over letters, digits, dots and parameters.
func endOfWord(text string, i int) int {
	for i < len(text) {
		switch c := text[i]; {
		case c == '$' && (i+1 == len(text) || class[text[i+1]] != classDigit):
			return i // perhaps a dollar quote: the caller stops there
		case class[c] == classWord, class[c] == classDigit, c == '.', c == '$':
			i++
		default:
			return i
		}
	}
	return i
}

// isPrefix reports whether c before a quote may make it another kind of
// string: E”, B”, X”, N”, U&”.
func isPrefix(c byte) bool {
	return class[c] == classWord || class[c] == classDigit || c == '&' || c == '$' || c == '"'
}

const (
	classStop  = iota // no skeleton
	classPlain        // operators, brackets, white space
	classWord
	classDigit
	classQuote
	classIdent
	classDash
	classSlash
)

var class = func() (t [256]uint8) {
	for c := range t {
		switch b := byte(c); {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b == '_', b >= 0x80, b == '$':
			t[c] = classWord
		case b >= '0' && b <= '9':
			t[c] = classDigit
		case b == '\'':
			t[c] = classQuote
		case b == '"':
			t[c] = classIdent
		case b == '-':
			t[c] = classDash
		case b == '/':
			t[c] = classSlash
		case b == '\\', b == 0x7f:
			t[c] = classStop
		case b >= ' ', b == '\t', b == '\n', b == '\r':
			t[c] = classPlain
		}
	}
	return t
}()
