//! CEL rules about quantities.

use kube::core::Rule;

const IS_POSITIVE: &str = "isQuantity(string(self)) && quantity(string(self)).isGreaterThan(quantity('0'))";

/// A quantity above 0.
pub(super) fn positive_quantity() -> Rule {
    Rule::new(IS_POSITIVE).message("must be a quantity above 0, such as 8Gi")
}

/// A quantity of at least this value. What is no quantity above 0 is reported by the other rule.
pub(super) fn at_least(least: &str) -> Rule {
    Rule::new(format!("!({IS_POSITIVE}) || !quantity(string(self)).isLessThan(quantity('{least}'))"))
        .message(&*format!("must be at least {least}"))
}
