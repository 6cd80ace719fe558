//! Why a request to the API server failed.

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The object belongs to someone else.
    #[error("{object} cannot be used: {owner}")]
    Foreign {
        /// Kind and name.
        object: String,
        /// Its owner.
        owner: String,
    },
    /// The object has changed since it was read. The next pass sees the new version.
    #[error("{0} has changed meanwhile")]
    Conflict(String),
    /// The API server refused the request, or could not be reached.
    #[error("Kubernetes refused {object}: {}", reason(source))]
    Refused {
        /// Kind and name.
        object: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
}

impl WriteError {
    /// The error of a request about `object`.
    pub fn of(object: impl Into<String>, source: kube::Error) -> Self {
        match &source {
            // Created by another operator, or by an earlier pass that the watch has not reported yet.
            kube::Error::Api(status) if status.is_conflict() || status.is_already_exists() => Self::Conflict(object.into()),
            _ => Self::Refused { object: object.into(), source: Box::new(source) },
        }
    }

    /// The API server's words, if it has decided not to accept the request as it is: to repeat it is useless until something changes.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { source, .. } => match &**source {
                kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Some(&status.message),
                _ => None,
            },
            Self::Foreign { .. } | Self::Conflict(_) => None,
        }
    }

    /// The error of a change of `object`, which existed a moment before: if it is gone, it has changed.
    pub fn of_change(object: impl Into<String>, source: kube::Error) -> Self {
        match &source {
            kube::Error::Api(status) if status.is_not_found() => Self::Conflict(object.into()),
            _ => Self::of(object, source),
        }
    }
}

/// What the API server said, or the whole chain of causes if it said nothing.
pub fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => chain(other),
    }
}

/// An error and its causes, from the first to the last.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn an_object_that_was_deleted_meanwhile_is_a_conflict() {
        let error = |code, reason| kube::Error::Api(Status::failure("", reason).with_code(code).boxed());
        let changed = |error| matches!(WriteError::of_change("Secret a", error), WriteError::Conflict(_));
        assert!(changed(error(404, "NotFound")) && changed(error(409, "Conflict")));
        assert!(!changed(error(403, "Forbidden")));
        let refused = |error| WriteError::of("Secret a", error).refusal().is_some();
        assert!(refused(error(403, "Forbidden")) && refused(error(422, "Invalid")));
        assert!(
            !refused(error(409, "Conflict")) && !refused(error(429, "TooManyRequests")) && !refused(error(500, "InternalError"))
        );
        // If nothing was read before, it is the namespace that does not exist.
        assert!(matches!(WriteError::of("Secret a", error(404, "NotFound")), WriteError::Refused { .. }));
    }
}
