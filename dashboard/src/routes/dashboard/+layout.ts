import { redirect } from '@sveltejs/kit';
import { session } from '$lib/session.svelte';

/** Everything below is for people who are signed in; others come back here after they have. */
export async function load({ url }) {
	if (!(await session.restore())) {
		redirect(307, `/login?next=${encodeURIComponent(url.pathname + url.search)}`);
	}
}
