//! How much of something is used, as a bar of characters.

use std::{
    env,
    io::{self, IsTerminal as _},
};

use comfy_table::{Cell, Color};

/// Characters of a bar.
const WIDTH: u64 = 10;

/// Percent of a cap from which on a bar warns.
const NEARLY_FULL: u64 = 75;

/// What the reader can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub is_unicode: bool,
    pub is_coloured: bool,
}

impl Style {
    /// Blocks where the locale has them, colours for people at a terminal who want them.
    pub fn of_environment() -> Self {
        let given = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(given);
        Self {
            is_unicode: locale.is_some_and(|locale| is_utf8(&locale)),
            is_coloured: io::stdout().is_terminal() && given("NO_COLOR").is_none(),
        }
    }

    /// `used` of `cap` as a cell of a table.
    pub fn cell(self, used: u64, cap: u64) -> Cell {
        let cell = Cell::new(self.bar(used, cap));
        if !self.is_coloured {
            return cell;
        }
        cell.fg(if used >= cap {
            Color::Red
        } else if percent(used, cap) >= NEARLY_FULL {
            Color::Yellow
        } else {
            Color::Green
        })
    }

    fn bar(self, used: u64, cap: u64) -> String {
        let filled = filled(used, cap);
        let (full, empty) = if self.is_unicode { ('█', '░') } else { ('#', '.') };
        (0..WIDTH).map(|place| if place < filled { full } else { empty }).collect()
    }
}

/// Whatever is used shows, and a bar is full only when nothing is left.
fn filled(used: u64, cap: u64) -> u64 {
    if used >= cap {
        return WIDTH;
    }
    let share = u128::from(used) * u128::from(WIDTH) / u128::from(cap);
    u64::try_from(share).unwrap_or(WIDTH).max(u64::from(used > 0))
}

fn percent(used: u64, cap: u64) -> u64 {
    u64::try_from(u128::from(used) * 100 / u128::from(cap.max(1))).unwrap_or(u64::MAX)
}

/// `de_DE.UTF-8`, `C.utf8@variant` and the like.
fn is_utf8(locale: &str) -> bool {
    let Some((_, charset)) = locale.split_once('.') else { return false };
    let charset = charset.split('@').next().unwrap_or_default();
    charset.eq_ignore_ascii_case("utf-8") || charset.eq_ignore_ascii_case("utf8")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bars_of_blocks_and_of_plain_characters() {
        let blocks = Style { is_unicode: true, is_coloured: false };
        let plain = Style { is_unicode: false, is_coloured: false };
        for (used, cap, bar) in [
            (0, 10, "░░░░░░░░░░"),
            (1, 1000, "█░░░░░░░░░"),
            (5, 10, "█████░░░░░"),
            (999, 1000, "█████████░"),
            (10, 10, "██████████"),
            (11, 10, "██████████"),
            (0, 0, "██████████"),
        ] {
            assert_eq!(blocks.bar(used, cap), bar, "{used}/{cap}");
        }
        assert_eq!(plain.bar(5, 10), "#####.....");
    }

    #[test]
    fn only_utf8_locales_have_blocks() {
        assert!(["en_US.UTF-8", "C.utf8", "de_DE.UTF-8@euro"].into_iter().all(is_utf8));
        assert!(!["C", "POSIX", "de_DE.ISO-8859-1", "UTF-8", ""].into_iter().any(is_utf8));
    }

    proptest! {
        #[test]
        fn a_bar_is_full_exactly_at_the_cap_and_empty_exactly_at_nothing(used: u64, cap: u64) {
            let cells = filled(used, cap);
            prop_assert!(cells <= WIDTH);
            prop_assert_eq!(cells == WIDTH, used >= cap);
            prop_assert_eq!(cells == 0, used == 0 && cap > 0);
            let _ = percent(used, cap);
        }
    }
}
