// Actions of the audit log as people say them.
const VERBS: Record<string, string> = {
	create: 'made',
	delete: 'deleted',
	destroy: 'destroyed',
	update: 'changed',
	remove: 'removed',
	add: 'added',
	rename: 'renamed',
	pause: 'paused',
	resume: 'resumed',
	register: 'registered',
	drain: 'drained',
	undrain: 'opened again',
	revoke: 'revoked',
	login: 'logged in',
	logout: 'logged out',
	signup: 'signed up',
	leave: 'left',
	invite: 'invited',
	accept: 'accepted'
};

/** `sandbox.create` is `Sandbox made`. */
export function actionText(action: string): string {
	const [thing = action, verb = ''] = action.split('.');
	const noun = thing.replaceAll('_', ' ').replace(/^api key/, 'API key');
	const text = `${noun} ${VERBS[verb] ?? verb.replaceAll('_', ' ')}`.trim();
	return text.charAt(0).toUpperCase() + text.slice(1);
}
