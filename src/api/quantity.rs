//! CEL rules about quantities.

use kube::core::Rule;

const IS_POSITIVE: &str = "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))";

/// A quantity above 0.
pub(super) fn positive_quantity() -> Rule {
    Rule::new(IS_POSITIVE).message("must be a quantity above 0, such as 8Gi")
}

/// An expression: if `applies`, the quantity `whole` is at least `part` and this much more.
pub(super) fn fits(whole: &str, part: &str, more: &str, applies: &str) -> String {
    let is_one = |field: &str| format!("isQuantity(string({field}))");
    format!(
        "!({applies}) || !{} || !{} || !quantity(string({whole})).isLessThan(quantity(string({part})).add(quantity('{more}')))",
        is_one(whole),
        is_one(part),
    )
}

/// A quantity of at least this value. What is no quantity above 0 is reported by the other rule.
pub(super) fn at_least(least: &str) -> Rule {
    Rule::new(format!("!({IS_POSITIVE}) || !quantity(string(self)).isLessThan(quantity('{least}'))"))
        .message(&*format!("must be at least {least}"))
}
