# shellcheck shell=bash disable=SC2154
# The JobSet that gke.sh asks for, from the variables of gke.sh.
jobset() {
  # As a JSON string, which is a YAML one; Kubernetes makes $ of $$, and fills in $(...).
  local json
  json="$(sed 's/[\\"]/\\&/g; s/\$/$$/g' <<<"$script")"
  [[ -z "$spot" ]] || selector+=', cloud.google.com/gke-spot: "true"'
  cat <<YAML
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
  annotations: # a slice, which is a node pool, for each job
    ${topology:+alpha.jobset.sigs.k8s.io/exclusive-topology: cloud.google.com/gke-nodepool}
spec:
  failurePolicy: {maxRestarts: $restarts}
  replicatedJobs:
  - name: workers
    replicas: $slices
    template:
      spec:
        parallelism: $nodes
        completions: $nodes
        completionMode: Indexed
        backoffLimit: 0 # it is the whole set that starts again
        template:
          spec:
            restartPolicy: Never
            terminationGracePeriodSeconds: 120 # to save in
            serviceAccountName: $service_account
            nodeSelector: {cloud.google.com/$selector}
            containers:
            - name: relay
              image: $image
              workingDir: /relay_jax
              command: [bash, -c, "$json"]
              resources: {limits: {$resource: $per_node}}
              volumeMounts: [{name: shm, mountPath: /dev/shm}]
            volumes: [{name: shm, emptyDir: {medium: Memory}}] # NCCL's
YAML
}
