# The image of GPU workers that build and serve TensorRT-LLM engines (engine kind tensorrt_llm).
#
#   docker build -f deploy/tensorrt-llm.Dockerfile -t ragray-tensorrt-llm:1.2.1 .
#
# Three environments that cannot be one: the image's own Python has TensorRT-LLM 1.2.1, /opt/modelopt has ModelOpt 0.47.0,
# /opt/ragray has Ray and ragray and comes first in PATH, so that Ray's worker starts in it. In the configuration:
#
#   engine:
#     devices:
#       H100:
#         kind: tensorrt_llm
#         image_uri: ragray-tensorrt-llm:1.2.1
#         interpreters: {tensorrt_llm: /usr/bin/python3, modelopt: /opt/modelopt/bin/python}
#
# Python of /opt/ragray and of the cluster's head must be the same minor version, and Ray the same release.
# This file has not been built in this project's tests: they have no GPU and cannot reach nvcr.io.
ARG TENSORRT_LLM=1.2.1
FROM nvcr.io/nvidia/tensorrt-llm/release:${TENSORRT_LLM}

COPY deploy/modelopt.txt /opt/requirements/modelopt.txt
RUN python3 -m venv /opt/modelopt \
    && /opt/modelopt/bin/pip install --no-cache-dir -r /opt/requirements/modelopt.txt

COPY pyproject.toml constraints.txt README.md LICENSE /opt/source/
COPY ragray /opt/source/ragray
RUN python3 -m venv /opt/ragray \
    && /opt/ragray/bin/pip install --no-cache-dir -c /opt/source/constraints.txt "/opt/source[ray,train,serve]"

# KubeRay starts Ray in a login shell, which may set PATH anew.
RUN echo 'export PATH=/opt/ragray/bin:$PATH' > /etc/profile.d/ragray.sh
# The pods of deploy/kuberay run as user 1000, with a writable /home/ragray and /tmp alone.
RUN mkdir -p /home/ragray /mnt/ragray && chown 1000:1000 /home/ragray /mnt/ragray
ENV PATH=/opt/ragray/bin:${PATH} HOME=/home/ragray
