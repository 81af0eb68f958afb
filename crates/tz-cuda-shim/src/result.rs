//! Keeps result codes that `cust_raw` does not know from becoming an invalid enum. Owns [`last_unknown_code`].

use std::cell::Cell;

use cust_raw::CUresult;

use crate::generated::RESULTS;

thread_local! {
    static LAST_UNKNOWN: Cell<Option<i32>> = const { Cell::new(None) };
}

/// The newest code on this thread that was passed on as `CUDA_ERROR_UNKNOWN` because `cust_raw` has no name for it.
/// Asking forgets it, so that a later, genuine `CUDA_ERROR_UNKNOWN` is not taken for it.
#[must_use]
pub fn last_unknown_code() -> Option<i32> {
    LAST_UNKNOWN.take()
}

/// The code as `cust_raw` knows it.
pub(crate) fn known(code: i32) -> CUresult {
    if code == 0 {
        return CUresult::CUDA_SUCCESS;
    }
    match RESULTS.binary_search_by_key(&code, |&result| result as i32) {
        Ok(place) => RESULTS
            .get(place)
            .copied()
            .unwrap_or(CUresult::CUDA_ERROR_UNKNOWN),
        Err(_) => {
            LAST_UNKNOWN.set(Some(code));
            CUresult::CUDA_ERROR_UNKNOWN
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes_keep_their_names_and_others_their_numbers() {
        assert!(RESULTS.is_sorted_by_key(|&result| result as i32));
        for &result in RESULTS {
            assert_eq!(known(result as i32), result);
            assert_eq!(last_unknown_code(), None, "{result:?}");
        }
        // Device unavailable and tensor memory leak, both younger than CUDA 11.4; and one that no driver has.
        for code in [46, 721, -1, i32::MAX] {
            assert_eq!(known(code), CUresult::CUDA_ERROR_UNKNOWN);
            assert_eq!(last_unknown_code(), Some(code));
            assert_eq!(last_unknown_code(), None, "asking forgets");
        }
    }
}
