// Who is signed in. The session is a cookie that no script can read: this knows only who it is.
//
// When it ends by itself, nothing that was typed is lost: whoever asked waits, a dialog asks for the password
// (SessionDialog), and what was asked is asked again.
import * as auth from '$api/auth';
import { setCsrf, whenUnauthorized } from '$api/client';
import { ApiError } from '$api/errors';
import type { Me } from '$api/types';

import { platformStream, stream } from './stream.svelte';

class Session {
	me = $state<Me | null>(null);
	/** The session has ended by itself: the dialog is shown. */
	ended = $state(false);
	#waiting: ((again: boolean) => void)[] = [];

	constructor() {
		whenUnauthorized(() => this.#again());
	}

	/** Takes up the browser's session when there is one. True when somebody is signed in. */
	async restore(): Promise<boolean> {
		if (this.me) return true;
		try {
			await this.#read();
			return true;
		} catch (error) {
			if (error instanceof ApiError && error.status === 401) return false;
			throw error;
		}
	}

	async signIn(email: string, password: string): Promise<void> {
		await this.taken(await auth.login(email, password));
	}

	/** Goes on with the session that an answer has opened. */
	async taken(answer: { csrf_token?: string | null }): Promise<void> {
		setCsrf(answer.csrf_token ?? null);
		const before = this.me?.user_id;
		await this.#read();
		this.ended = false;
		const same = before === undefined || before === this.me?.user_id;
		for (const go of this.#waiting.splice(0)) go(same);
		if (!same) location.assign('/dashboard/sandboxes');
		else this.#fresh();
	}

	/** Reads again who one is: after a change of the name or the team. */
	async reload(): Promise<void> {
		await this.#read();
		this.#fresh();
	}

	async signOut(): Promise<void> {
		try {
			await auth.logout();
		} catch {
			// Forgotten here all the same; the server ends the session by itself when its time is over.
		}
		this.leave();
	}

	/** Forgets who one was, and lets go of those who wait. */
	leave(): void {
		setCsrf(null);
		this.me = null;
		this.ended = false;
		for (const go of this.#waiting.splice(0)) go(false);
		stream.stop();
		platformStream.stop();
	}

	#fresh(): void {
		stream.restart();
		platformStream.restart();
	}

	async #read(): Promise<void> {
		this.me = await auth.me();
		setCsrf(this.me.csrf_token ?? null);
	}

	#again(): Promise<boolean> {
		if (!this.me) return Promise.resolve(false);
		this.ended = true;
		return new Promise((resolve) => this.#waiting.push(resolve));
	}
}

export const session = new Session();
