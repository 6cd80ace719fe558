//! Kubernetes quantities, as far as they are parsed and compared.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The smallest part of a quantity, as a power of ten. Smaller parts are rounded up.
const NANO: i64 = -9;
/// The largest quantity: larger ones count as this one.
const MAX: i128 = i64::MAX as i128 * 1_000_000_000;
/// How many digits are computed with. `i128` has more, for the units.
const DIGITS: usize = 20;

/// The value in billionths, if the text is a quantity: `8Gi`, `500m`, `0.5`, `1e9`. It is read as by the API server (`ParseQuantity` in
/// `k8s.io/apimachinery/pkg/api/resource`), except that a number has at least one digit.
///
/// The API server writes quantities in a canonical form (`0.5` becomes `500m`), so a quantity that was applied is not
/// always read back as the same text.
pub fn nano(text: &str) -> Option<i128> {
    let (sign, unsigned) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (number, suffix) = unsigned.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let (ten, two) = unit(suffix)?;
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.contains('.') {
        return None;
    }
    let power = i64::from(ten) - NANO - i64::try_from(fraction.len()).ok()?;
    Some(sign * scaled(digits.trim_start_matches('0'), power, two))
}

/// The powers of ten and of two that a suffix stands for.
fn unit(suffix: &str) -> Option<(i32, u32)> {
    Some(match suffix {
        "n" => (-9, 0),
        "u" => (-6, 0),
        "m" => (-3, 0),
        "" => (0, 0),
        "k" => (3, 0),
        "M" => (6, 0),
        "G" => (9, 0),
        "T" => (12, 0),
        "P" => (15, 0),
        "E" => (18, 0),
        "Ki" => (0, 10),
        "Mi" => (0, 20),
        "Gi" => (0, 30),
        "Ti" => (0, 40),
        "Pi" => (0, 50),
        "Ei" => (0, 60),
        exponent => (exponent.strip_prefix(['e', 'E'])?.parse().ok()?, 0),
    })
}

/// A number with these digits, multiplied by powers of ten and of two, rounded up and at most [`MAX`].
fn scaled(digits: &str, ten: i64, two: u32) -> i128 {
    let (kept, dropped) = digits.split_at(digits.len().min(DIGITS));
    let rest = i128::from(dropped.bytes().any(|digit| digit != b'0'));
    let number = kept.parse::<i128>().unwrap_or_default() + rest;
    let ten = ten.saturating_add(i64::try_from(dropped.len()).unwrap_or(i64::MAX));
    let powered = u32::try_from(ten.unsigned_abs()).ok().and_then(|power| 10_i128.checked_pow(power));
    match (number, powered, ten < 0) {
        (0, ..) => 0,
        // Less than the smallest part.
        (_, None, true) => 1,
        (_, None, false) => MAX,
        (number, Some(power), true) => {
            let shifted = number.checked_mul(1 << two).unwrap_or(i128::MAX);
            (shifted / power + i128::from(shifted % power != 0)).min(MAX)
        }
        (number, Some(power), false) => {
            number.checked_mul(power).and_then(|all| all.checked_mul(1 << two)).map_or(MAX, |all| all.min(MAX))
        }
    }
}

/// The value of a quantity of bytes, if it is a whole positive number of them.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    let nano = nano(&quantity.0)?;
    (nano > 0 && nano % 1_000_000_000 == 0).then(|| i64::try_from(nano / 1_000_000_000).ok())?
}

/// A size, rounded up to a power of two of at least 1Mi: a status must not have values that change with every write.
pub fn rounded(bytes: i64) -> String {
    let mebibytes = u64::try_from(bytes).unwrap_or_default().div_ceil(1 << 20).max(1).next_power_of_two();
    if mebibytes >= 1024 { format!("{}Gi", mebibytes / 1024) } else { format!("{mebibytes}Mi") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_as_by_the_api_server() {
        for (text, expected) in [
            ("8Gi", 8 << 30),
            ("1.5Ki", 1536),
            ("1e9", 1_000_000_000),
            ("1E9", 1_000_000_000),
            ("256e6", 256_000_000),
            ("+2.5e3", 2500),
            ("1500e-2", 15),
            ("1Ei", 1 << 60),
            ("2E", 2_000_000_000_000_000_000),
            (".5Gi", 1 << 29),
            ("1.Gi", 1 << 30),
            ("0008Gi", 8 << 30),
            ("3000m", 3),
            ("5000000000n", 5),
            ("0.00097656250000000000000000000000Ki", 1),
            ("1e1000", i64::MAX),
            ("999999999999999999999999Ei", i64::MAX),
        ] {
            assert_eq!(bytes(&Quantity(text.into())), Some(expected), "{text}");
        }
        assert_eq!(nano("0.5"), nano("500m"));
        assert_eq!(nano("2"), nano("2000m"));
        assert_eq!(
            (nano("-1"), nano("1n"), nano("0.1n"), nano("1e-400"), nano("0e9")),
            (Some(-1_000_000_000), Some(1), Some(1), Some(1), Some(0))
        );
        for text in ["", "Gi", "e3", "1e", "1e3.5", "1e3Gi", "0.0001Kx", "1..2", ".", "1 Gi", "1gi", "1e+-3", "8GiB", "é"] {
            assert_eq!(nano(text), None, "{text:?}");
        }
        for text in ["0", "-1Gi", "500m", "1e-1", "0.1"] {
            assert_eq!(bytes(&Quantity(text.into())), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_rounded_up_to_a_power_of_two() {
        const MI: i64 = 1 << 20;
        for (bytes, text) in [
            (-1, "1Mi"),
            (0, "1Mi"),
            (MI, "1Mi"),
            (MI + 1, "2Mi"),
            (3 * MI, "4Mi"),
            (512 * MI, "512Mi"),
            (513 * MI, "1Gi"),
            (1025 * MI, "2Gi"),
            (8 << 30, "8Gi"),
        ] {
            assert_eq!(rounded(bytes), text, "{bytes}");
        }
    }
}
