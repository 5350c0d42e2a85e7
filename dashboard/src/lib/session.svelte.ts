// Who is signed in. The token lives in this tab only: in memory, and in the tab's sessionStorage so that a reload
// doesn't sign out. It is never in localStorage, and gone when the tab closes.
import * as auth from '$api/auth';
import { setBearer, whenUnauthorized } from '$api/client';
import type { Me } from '$api/types';

const KEY = 'atoll.session';

class Session {
	me = $state<Me | null>(null);
	/** The session ended by itself while somebody was here. */
	expired = $state(false);

	constructor() {
		whenUnauthorized(() => {
			this.#forget();
			this.expired = true;
		});
	}

	/** Takes up the tab's session when there is one. True when somebody is signed in. */
	async restore(): Promise<boolean> {
		if (this.me) return true;
		const token = read();
		if (!token) return false;
		setBearer(token);
		try {
			this.me = await auth.me();
			return true;
		} catch (error) {
			if (read() === null) return false;
			throw error;
		}
	}

	async signIn(email: string, password: string): Promise<void> {
		const { token } = await auth.login(email, password);
		setBearer(token);
		write(token);
		this.me = await auth.me();
		this.expired = false;
	}

	async signOut(): Promise<void> {
		try {
			await auth.logout();
		} catch {
			// Forgotten here all the same; the server ends the session by itself when its time is over.
		}
		this.#forget();
		this.expired = false;
	}

	#forget(): void {
		setBearer(null);
		write(null);
		this.me = null;
	}
}

function read(): string | null {
	try {
		return sessionStorage.getItem(KEY);
	} catch {
		return null;
	}
}

function write(token: string | null): void {
	try {
		if (token === null) sessionStorage.removeItem(KEY);
		else sessionStorage.setItem(KEY, token);
	} catch {
		// No storage: the session ends with a reload.
	}
}

export const session = new Session();
