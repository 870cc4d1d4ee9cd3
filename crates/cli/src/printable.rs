//! What a terminal may be shown of text that others chose.

/// `text` without control characters, so that nothing a node or another user chose can move the cursor,
/// change colours or fake a line of its own.
pub fn printable(text: &str) -> String {
    let unsafe_to_show = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if unsafe_to_show(c) { '\u{fffd}' } else { c }).collect()
}
