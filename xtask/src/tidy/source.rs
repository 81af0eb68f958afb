//! Reads Rust source just far enough for `tidy`: what is code, what is comment or string.

/// The source with comments and the contents of string and character literals blanked out; line
/// breaks stay, so that line numbers do.
pub(super) fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
        let inside_word = code.last().is_some_and(|byte: &u8| is_word(*byte));
        let skipped = match rest {
            [b'/', b'/', ..] => find(rest, b"\n").unwrap_or(rest.len()),
            [b'/', b'*', ..] => block_comment_len(rest),
            [b'"', ..] => quoted_len(rest, b'"'),
            [b'r' | b'b' | b'c', ..] if !inside_word => prefixed_string_len(rest),
            [b'\'', ..] => char_len(rest),
            _ => 0,
        };
        if skipped == 0 {
            code.push(rest[0]);
            at += 1;
        } else {
            let blanked = &rest[..skipped.min(rest.len())];
            code.extend(blanked.iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at += blanked.len();
        }
    }
    String::from_utf8_lossy(&code).into_owned()
}

/// How often `word` stands alone in this code.
pub(super) fn count_word(code: &str, word: &str) -> usize {
    code.match_indices(word)
        .filter(|(at, _)| {
            let before = at.checked_sub(1).and_then(|at| code.as_bytes().get(at));
            let after = code.as_bytes().get(at + word.len());
            !before.is_some_and(|byte| is_word(*byte)) && !after.is_some_and(|byte| is_word(*byte))
        })
        .count()
}

/// The names after every `fn` in this code.
pub(super) fn function_names(code: &str) -> impl Iterator<Item = &str> {
    code.match_indices("fn ").filter_map(|(at, _)| {
        let starts = at.checked_sub(1).and_then(|at| code.as_bytes().get(at));
        let name = code.get(at + 3..)?.trim_start();
        let end = name.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(name.len());
        (!starts.is_some_and(|byte| is_word(*byte)) && end > 0).then(|| &name[..end])
    })
}

/// The part of a file that is test code: all of it in a tests folder or file, otherwise what
/// follows the first test module, which stands last.
pub(super) fn test_part<'a>(path: &str, code: &'a str) -> &'a str {
    if path.contains("/tests/") || path.ends_with("/tests.rs") {
        return code;
    }
    let module = code.match_indices("#[cfg(test)]").find(|(at, attribute)| {
        let next = code[at + attribute.len()..].trim_start();
        next.starts_with("mod ")
    });
    module.map_or("", |(at, _)| &code[at..])
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Block comments nest.
fn block_comment_len(rest: &[u8]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => {
                depth += 1;
                at += 2;
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                at += 2;
            }
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

/// The length of a literal that starts with `quote` and ends at the next unescaped one.
fn quoted_len(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if *byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `b"…"`, `r"…"`, `r#"…"#`, `br##"…"##` and the like; 0 if none starts here.
fn prefixed_string_len(rest: &[u8]) -> usize {
    let prefix = rest.iter().take_while(|byte| matches!(byte, b'r' | b'b' | b'c')).count();
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if prefix > 2 || rest.get(open) != Some(&b'"') {
        return 0;
    }
    if !rest[..prefix].contains(&b'r') {
        return if hashes == 0 { prefix + quoted_len(&rest[prefix..], b'"') } else { 0 };
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    let body = &rest[open + 1..];
    open + 1 + find(body, &close).map_or(body.len(), |at| at + close.len())
}

/// A character literal; 0 for a lifetime.
fn char_len(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted_len(rest, b'\'');
    }
    let first_len = rest.get(1).map_or(0, |byte| match byte {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    });
    if rest.get(1 + first_len) == Some(&b'\'') { 2 + first_len } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expect: &str) {
        let words: Vec<String> = code_only(source).split_whitespace().map(str::to_owned).collect();
        assert_eq!(words.join(" "), expect);
    }

    #[test]
    fn comments_and_literals_are_blanked() {
        check("a // b\nc", "a c");
        check("a /* b /* c */ d */ e", "a e");
        check(r#"f("unsafe \" x") g"#, "f( ) g");
        check(r##"r#"unsafe " x"# y"##, "y");
        check("b\"x\" b'x' 'é' '\\'' 'a", "b 'a");
        check("fn f<'a>(x: &'a str)", "fn f<'a>(x: &'a str)");
        check("\"open to the end", "");
    }

    #[test]
    fn words_and_functions_are_found_in_code_alone() {
        assert_eq!(count_word("unsafe { unsafe_code } not_unsafe unsafe{", "unsafe"), 2);
        let names: Vec<_> = function_names("pub fn one() {} fn two_2<T>() {} often x").collect();
        assert_eq!(names, ["one", "two_2"]);
    }

    #[test]
    fn test_code_is_known_by_place_or_by_module() {
        let source = "fn a() {}\n#[cfg(test)]\nfn helper() {}\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(test_part("crates/x/src/a.rs", source), "#[cfg(test)]\nmod tests {}\n");
        assert_eq!(test_part("crates/x/tests/it/a.rs", source), source);
        assert_eq!(test_part("crates/x/src/a.rs", "fn a() {}"), "");
    }
}
