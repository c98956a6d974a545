# docker build -t lrbench . && docker run --gpus all -v "$PWD":/work lrbench run quick
FROM python:3.12-slim
RUN apt-get update && apt-get install -y --no-install-recommends git && rm -rf /var/lib/apt/lists/*
COPY . /opt/lrbench
RUN pip install --no-cache-dir /opt/lrbench
# Snapshots, results and caches are written to the mounted folder.
WORKDIR /work
ENTRYPOINT ["lrbench"]
