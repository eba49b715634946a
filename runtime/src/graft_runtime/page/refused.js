/** Why there is no answer. `code` is one of the contract's, or "gone" where nobody answered; `wait` in seconds. */
export class Refused extends Error {
  constructor(code, message, { status = 0, wait = null } = {}) {
    super(message);
    Object.assign(this, { code, status, wait });
  }
}
