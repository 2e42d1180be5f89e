//! How sizes and numbers are said, everywhere: powers of 1024 with the units that say so, and the plural where there is one.

/// Bytes in the unit that fits, of three significant digits.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // What would be rounded to 1024 is one of the next unit.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number of things whose plural ends in -s: `1 file`, `2 files`.
pub fn count(number: impl TryInto<u64>, one: &str) -> String {
    let number = number.try_into().unwrap_or(u64::MAX);
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// What the operating system answered, in its words and without its number.
pub fn os(error: &std::io::Error) -> String {
    let said = error.to_string();
    error
        .raw_os_error()
        .and_then(|n| said.strip_suffix(&format!(" (os error {n})")))
        .unwrap_or(&said)
        .to_owned()
}

/// Whether this process may open no more files; std has no kind for it.
pub fn no_descriptor(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_every_threshold() {
        for (bytes, said) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (10_234, "9.99 KiB"),
            (10_236, "10.0 KiB"),
            (102_350, "100 KiB"),
            (1_048_063, "1023 KiB"),
            (1_048_064, "1.00 MiB"),
            (62_412_345, "59.5 MiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), said);
        }
    }

    #[test]
    fn thousands_are_apart() {
        for (number, said) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), said);
        }
    }

    #[test]
    fn one_is_no_plural() {
        let said = |n: u64| count(n, "file");
        assert_eq!((said(0), said(1), said(2)), ("0 files".into(), "1 file".into(), "2 files".into()));
        assert_eq!(count(12_345_usize, "pack"), "12,345 packs");
    }
}
