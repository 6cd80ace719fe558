//! Kubernetes quantities, as far as they are parsed and compared.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths, if the text is a quantity without an exponent: `8Gi`, `500m`, `0.5`.
///
/// The API server writes quantities in a canonical form (`0.5` becomes `500m`), so a quantity that was applied is not
/// always read back as the same text.
pub fn milli(text: &str) -> Option<i128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let scale: i128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if number.is_empty() || number == "." || whole.len() > 18 || fraction.len() > 9 {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    Some(digits.checked_mul(scale)? / 10_i128.pow(u32::try_from(fraction.len()).ok()?))
}

/// The value of a quantity of bytes, if it is a whole positive number of them.
pub fn bytes(quantity: &Quantity) -> Option<i64> {
    let milli = milli(&quantity.0)?;
    (milli > 0 && milli % 1000 == 0).then(|| i64::try_from(milli / 1000).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(bytes(&Quantity("8Gi".into())), Some(8 << 30));
        assert_eq!(bytes(&Quantity("1.5Ki".into())), Some(1536));
        assert_eq!(milli("0.5"), milli("500m"));
        assert_eq!(milli("2"), milli("2000m"));
        for text in ["", "Gi", "-1", "1e3", "0.0001Kx", "1..2", ".", "999999999999999999.999999999Pi"] {
            assert_eq!(milli(text), None, "{text:?}");
        }
        assert_eq!(bytes(&Quantity("0".into())), None);
        assert_eq!(bytes(&Quantity("500m".into())), None);
    }
}
