// What the server says of itself, read once when a page first needs it.
import { authConfig } from '$api/auth';

class Site {
	/** Below which name ports of sandboxes are reached; null until it is known, and where there is none. */
	domain = $state<string | null>(null);
	#asked = false;

	know(): void {
		if (this.#asked) return;
		this.#asked = true;
		authConfig().then(
			({ domain }) => (this.domain = domain ?? null),
			// What would be shown with it is left out; the next page asks again.
			() => (this.#asked = false)
		);
	}
}

export const site = new Site();
